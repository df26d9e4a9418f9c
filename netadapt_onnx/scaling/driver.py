"""A run of `scale`: for every method its laws or widths, then a model for every target, then charts and the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.json_output import write_json
from netadapt_onnx.common.resources import LATENCY
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.scaling.baselines import baseline_widths
from netadapt_onnx.scaling.build_models import ModelBuilder
from netadapt_onnx.scaling.latency_target import LatencyMeasurements
from netadapt_onnx.scaling.network import ScalableNetwork
from netadapt_onnx.scaling.neuralscale import DescentResult, law_of, law_search, neuralscale
from netadapt_onnx.scaling.options import Method, ScaleOptions
from netadapt_onnx.scaling.plots import write_plots
from netadapt_onnx.scaling.power_law import Law, law_toml
from netadapt_onnx.scaling.result import PLOTS, OriginalNetwork, ScaledModel, ScaleResult
from netadapt_onnx.scaling.slower import slower_note
from netadapt_onnx.scaling.target_widths import AllowedWidths, WidthSearch, allowed_widths, uniform_path
from netadapt_onnx.scaling.train_networks import NetworkTrainer
from netadapt_onnx.scaling.width_record import WidthRecord
from netadapt_onnx.search.run_directory.run import Run

LAW_FILE, RESULT_FILE = "widths.toml", "result.json"


@dataclass
class ScaleDriver:
    """Does everything that a run is asked for; what a killed run had finished is not done again.

    The law of widths is `fixed_law` (`--law`), fitted to `record` (`--fit`), or else searched with data.
    """

    run: Run
    network: ScalableNetwork
    options: ScaleOptions
    fixed_law: Law | None
    record: WidthRecord | None
    trainer: NetworkTrainer | None
    latency: LatencyMeasurements
    table: Table | None
    _law: Law = field(init=False, default=Law(()))
    _descent: DescentResult | None = field(init=False, default=None)

    @cached_property
    def _builder(self) -> ModelBuilder:
        return ModelBuilder(self.run, self.network, self.options, self.trainer, self.latency, self.table)

    def result(self) -> ScaleResult:
        """Build all models, draw the charts and write the result.

        Raises:
            NetadaptError: A target is out of reach, or training diverged.
        """
        models = [model for method, warm_up in self._searches() for model in self._models(method, warm_up)]
        folder = self.run.path
        notes = [*(self._law.notes if self._law.groups else ()), *(self.trainer.notes if self.trainer else ())]
        original = self._original(models)
        notes += self.latency.notes
        notes += [note for model in models if (note := slower_note(model, original))]
        notes += write_plots(folder / PLOTS, models, self._law, self._descent)
        unique = tuple(dict.fromkeys(notes))
        result = ScaleResult(self._law.groups, tuple(models), self.run.seconds(), unique, original)
        relative = tuple(replace(m, model=None if m.model is None else m.model.relative_to(folder)) for m in models)
        write_json(folder / RESULT_FILE, replace(result, models=relative))
        for file in (*sorted((folder / PLOTS).glob("*.json")), folder / RESULT_FILE):
            self.run.journal.seal(file)
        return result

    def _original(self, models: Sequence[ScaledModel]) -> OriginalNetwork:
        """The network that was scaled; its latency is known where one of the others was timed beside it."""
        timed = ((one.resources.latency_ms, one.latency_ratio) for one in models)
        latency_ms = next((ms / ratio for ms, ratio in timed if ms and ratio), None)
        folded = self.network.trace.folded
        resources = cost(folded.proto, folded.shapes).to_resources(self.network.source.size_bytes, latency_ms)
        accuracy = None if self.trainer is None else self.trainer.original_accuracy()
        return OriginalNetwork(resources, self.network.widths, accuracy)

    def _searches(self) -> Iterator[tuple[Method, int | None]]:
        """Every method, with every warm-up where it is searched."""
        for method in self.options.methods:
            searched = self.fixed_law is None and self.record is None and method != "uniform"
            for warm_up in self.options.warmup_epochs if searched else (None,):
                yield method, warm_up

    def _models(self, method: Method, warm_up: int | None) -> Iterator[ScaledModel]:
        """The models of one method, for every target."""
        key = method if warm_up is None else f"{method}/{warm_up}"
        if method == "neuralscale":
            self._law = self._find_law(key, warm_up)
            self._write_law(warm_up)
            base: Mapping[str, float] = {}
        else:
            base = baseline_widths(self.network, self.trainer, method, key, warm_up or 0)
        for budget in self.options.budgets:
            allowed = self._allowed(budget.resource)
            if method == "neuralscale":
                search = law_search(self._law, self.network, allowed)
            else:
                search = WidthSearch(uniform_path(base, allowed), 1.0, allowed)
            yield self._builder.build(budget, method, warm_up, search)

    def _find_law(self, key: str, warm_up: int | None) -> Law:
        """The law that was given, fitted to the record, or searched."""
        if self.fixed_law is not None:
            return self.fixed_law
        if self.record is not None:
            law = law_of(self.network, self.record)
            self._descent = DescentResult(law, (), (self.record.named(self.network.widths),))
            return law
        assert self.trainer is not None
        self._descent = neuralscale(self.network, self.trainer, key, warm_up or 0, self.options.iterations)
        return self._descent.law

    def _write_law(self, warm_up: int | None) -> None:
        files = [LAW_FILE]
        if warm_up is not None and len(self.options.warmup_epochs) > 1:
            files.append(LAW_FILE.replace(".", f"-warmup{warm_up}."))
        for name in files:
            write_atomically(self.run.path / name, law_toml(self._law).encode())

    def _allowed(self, resource: str) -> Mapping[str, AllowedWidths]:
        """The allowed widths; for latency only those at the edges of the table's steps."""
        if resource != LATENCY or self.table is None:
            return self.network.allowed
        return allowed_widths(self.network.trace.prunable, self.table.staircase.alignment)
