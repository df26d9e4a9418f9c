"""The model for a target: the widths that meet it, trained and scored where there are data, and what it costs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from netadapt_onnx.common.budget import Budget
from netadapt_onnx.common.provenance import provenance, stored_bytes
from netadapt_onnx.common.resources import LATENCY
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import memory_bytes
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.scaling.latency_target import LatencyMeasurements
from netadapt_onnx.scaling.network import ScalableNetwork
from netadapt_onnx.scaling.options import Method, ScaleOptions
from netadapt_onnx.scaling.result import ScaledModel
from netadapt_onnx.scaling.target_widths import Widths, WidthSearch, widest
from netadapt_onnx.scaling.train_networks import NetworkTrainer, save_model
from netadapt_onnx.search.predictor import Predictor
from netadapt_onnx.search.run_directory.run import Run

# A network whose weights take a larger share of the memory can be neither trained nor run beside another.
MEMORY_SHARE = 0.1


@dataclass(frozen=True)
class ModelBuilder:
    """Builds the models of a run; without a `trainer` they keep what weights they can and are not trained."""

    run: Run
    network: ScalableNetwork
    options: ScaleOptions
    trainer: NetworkTrainer | None
    latency: LatencyMeasurements
    table: Table | None

    @cached_property
    def _predict(self) -> Predictor:
        extra_bytes = stored_bytes(provenance(self.network.source.sha256, command="scale"))
        predicted = {} if self.table is None else {LATENCY: self.table.predict}
        return Predictor(self.network.trace, extra_bytes, predicted)

    def build(self, budget: Budget, method: Method, warmup_epochs: int | None, search: WidthSearch) -> ScaledModel:
        """Build the largest network within a target; for latency, the one measured nearest to it.

        Args:
            budget: The target.
            method: How its widths are distributed.
            warmup_epochs: The length of the training before the descent, if there was one.
            search: Where its widths are sought.

        Raises:
            NetadaptError: The target is out of reach.
        """
        name = self._name(budget, method, warmup_epochs)
        original = self._predict(self.network.widths)
        predict = self._predicted(budget)
        share = None
        if budget.resource == LATENCY:
            original_ms = original[LATENCY] / self.latency.gain
            widths, share = self.latency.widths_for(name, budget, search, predict, original_ms)
        else:
            limit = budget.limit(original[budget.resource])
            widths = widest(search.path, predict, limit, search.start, str(budget))
        proto = self.network.at(widths)
        folder = self.run.path / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        if self.trainer is None:
            accuracy, file = None, save_model(self.run, self.network, proto, folder / "model.onnx")
        else:
            accuracy, file = self.trainer.train_with_seeds(name, proto, folder)
        counted = cost(proto, fold(proto, self.network.shapes).shapes)
        latency_ms = None
        if share is not None:
            latency_ms = share.value * self.latency.reference_ms
        elif accuracy is not None:
            share, latency_ms = self.latency.measure_briefly(name, widths)
        resources = counted.to_resources(file.stat().st_size, latency_ms)
        ratio, interval = (None, None) if share is None else (share.value, (share.low, share.high))
        return ScaledModel(str(budget), method, warmup_epochs, resources, ratio, widths, accuracy, file, interval)

    def _name(self, budget: Budget, method: Method, warmup_epochs: int | None) -> str:
        """The name of a model's folder and of its entries in the journal."""
        name = str(budget) if method == self.options.methods[0] else f"{budget}-{method}"
        if len(self.options.warmup_epochs) > 1 and warmup_epochs is not None:
            name += f"-warmup{warmup_epochs}"
        return re.sub(r"[^\w.=-]", "_", name)

    def _predicted(self, budget: Budget) -> Callable[[Widths], float]:
        """The resource of a budget as a function of widths; it raises NetadaptError for networks that are too large."""
        most_bytes = MEMORY_SHARE * memory_bytes()

        def amount(widths: Widths) -> float:
            amounts = self._predict(widths)
            if amounts["size"] > most_bytes:
                raise NetadaptError(
                    f"target {budget}: a network of {amounts['size'] / 1e9:.1f} GB is too much for this machine",
                    hint="choose a smaller target",
                    code="target",
                )
            return amounts[budget.resource]

        return amount
