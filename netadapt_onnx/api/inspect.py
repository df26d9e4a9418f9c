"""What a model costs, layer by layer, and which of its channels can go: what `inspect` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from netadapt_onnx.api.options import InspectOptions
from netadapt_onnx.api.source import Source, open_model, prepare_output
from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.options import File, from_keywords
from netadapt_onnx.common.progress import reporter
from netadapt_onnx.common.resources import Resources
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import Cost, CostModel
from netadapt_onnx.graph.file_description import FileDescription
from netadapt_onnx.graph.model import Model, load_without_weights
from netadapt_onnx.surgery.explain import Explanation, explain
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.obstacles import cost_at, notes
from netadapt_onnx.surgery.plan import template
from netadapt_onnx.surgery.states import with_states
from netadapt_onnx.surgery.trace import Trace, trace_model
from netadapt_onnx.surgery.verify.unrunnable import can_be_proven

if TYPE_CHECKING:
    from netadapt_onnx.api.keywords import InspectKeywords
    from netadapt_onnx.search.sensitivity import Sensitivities


@dataclass(frozen=True)
class Layer:
    """A node that owns weights; `group` names the group that its output channels belong to.

    `latency_ms`: a table's prediction for the kernel that is named after it; only with a table.
    """

    name: str
    op: str
    params: int
    macs: int
    group: str | None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Inspection:
    """A model's totals (`latency_ms`: a table's prediction), its layers in topological order, and its groups.

    `file` is what the file says of itself, `paths` where each layer and group stands in the network, by name
    (`layer1.0.conv1`).
    """

    model: Resources
    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    file: FileDescription
    paths: Mapping[str, str]


@dataclass(frozen=True)
class Cautioned(Inspection):
    """An inspection with what to know of it: what of the model stays as it is, notes of the table."""

    notes: tuple[str, ...]


@dataclass(frozen=True)
class Unprovable(Cautioned):
    """An inspection of a model no cut of which can be proven here, because it cannot be run."""


@dataclass(frozen=True)
class RunsOtherwise(Cautioned):
    """An inspection, with a table, of a file that a runtime sees otherwise than once it is normalised.

    `normalised_ms` is what the predicted latencies of the layers add up to.
    """

    normalised_ms: float


@dataclass(frozen=True)
class Explained(Inspection):
    """An inspection with what was asked about one name."""

    explain: tuple[Explanation, ...]


@dataclass(frozen=True)
class ExplainedWithNotes(Explained):
    """The same of a model of which something stays as it is."""

    notes: tuple[str, ...]


@dataclass(frozen=True)
class Sensitive(Inspection):
    """An inspection with what its model loses when one group alone is cut; `notes`: what else to know of it."""

    sensitivity: Sensitivities
    notes: tuple[str, ...] = ()


def inspect(model: Source, **options: Unpack[InspectKeywords]) -> Inspection:
    """Count what a model costs and find its groups of channels; with a latency table, predict its latency in ms.

    What a table predicts is the latency of the file as given, if the table knows it (`RunsOtherwise`).
    `explained` names a group, layer or tensor whose ties and pins the result then has (`Explained`); `write_plan` is a
    file for a plan that keeps everything, to be edited for `prune`. `sensitivity` cuts each group alone to 0.75, 0.5
    and 0.25 by `criterion`; the result (`Sensitive`) has the accuracies on held-out samples of `data`. `choices`
    are those of surgery. `shapes` gives inputs whose axes beyond the first are dynamic. Raises NetadaptError for a
    model it cannot run.

    >>> found = inspect("model.onnx")
    >>> found.model.params, found.model.macs
    (1586, 32416)
    >>> [(group.name, group.channels, group.prunable) for group in found.groups]
    [('conv1', 8, True), ('conv2', 16, True), ('fc1', 10, False)]
    """
    settings = from_keywords(InspectOptions, options)
    _check_question(settings.sensitivity, settings.data, settings.explained)
    if isinstance(model, Model) or settings.table is not None or settings.sensitivity:
        source = open_model(model)
    else:
        source = load_without_weights(model)
    if settings.write_plan is not None:
        prepare_output(Path(settings.write_plan), settings.overwrite, source, settings.table)
    if settings.graph is not None:
        _prepare_drawing(settings, source)
    trace = with_states(
        trace_model(source, settings.shapes, settings.batch_size, settings.choices, in_place=source is not model)
    )
    cost = cost_at(trace, CostModel(trace.flat.proto), trace.flat.shapes)
    prediction = _Prediction() if settings.table is None else _predict(Path(settings.table), source, trace)
    reasons = () if settings.explained is None else explain(trace, settings.explained)
    if settings.write_plan is not None:
        write_atomically(Path(settings.write_plan), template(trace).encode())
    totals = cost.to_resources(source.size_bytes, prediction.latency_ms)
    layers = _layers(cost, trace, prediction.latency_by_layer)
    paths = {
        name: trace.paths[name] for name in [*(layer.name for layer in layers), *(group.name for group in trace.groups)]
    }
    inspection = Inspection(totals, layers, trace.groups, source.description, paths)
    if settings.graph is not None:
        _draw(trace, source, Path(settings.graph))
    cautions = (*notes(trace), *trace.folded.unfinished, *prediction.table_notes)
    if settings.sensitivity and settings.data is not None:
        from netadapt_onnx.search.sensitivity import sensitivity as measure_sensitivity

        losses = measure_sensitivity(
            trace,
            settings.data,
            criterion=settings.criterion,
            seed=settings.seed,
            progress=settings.progress or reporter(),
        )
        return Sensitive(**vars(inspection), sensitivity=losses, notes=cautions)
    if settings.explained is not None:
        answer = Explained(**vars(inspection), explain=reasons)
        return ExplainedWithNotes(**vars(answer), notes=cautions) if cautions else answer
    return _with_cautions(inspection, trace, prediction, cautions)


def _check_question(sensitivity: bool, data: File | None, explained: str | None) -> None:
    """Raise NetadaptError for a sensitivity without data, or together with an explanation."""
    if sensitivity and (data is None or explained is not None):
        why = "needs data to judge by" if data is None else "and an explanation are two questions"
        raise NetadaptError(f"--sensitivity {why}", hint="give --data alone", code="usage")


def _prepare_drawing(settings: InspectOptions, source: Model) -> None:
    """Raise NetadaptError where a drawing cannot be made or may not be written."""
    from netadapt_onnx.reporting.graphviz import require_drawable

    assert settings.graph is not None
    file = Path(settings.graph)
    require_drawable(file)
    prepare_output(file, settings.overwrite, source, settings.table)
    if settings.write_plan is not None and Path(settings.write_plan).absolute() == file.absolute():
        raise NetadaptError(f"{file} would be both the plan and the drawing", hint="name two files", code="usage")


def _draw(trace: Trace, source: Model, file: Path) -> None:
    from netadapt_onnx.reporting.network_drawing import draw_groups
    from netadapt_onnx.surgery.layer_graph import layer_graph

    draw_groups(layer_graph(trace), file, f"{source.path.name}: groups of channels")


@dataclass(frozen=True)
class _Prediction:
    """The latency of a model by a latency table; without a table, nothing.

    `latency_ms` is the latency of the file, `normalised_ms` that of the normalised model, which may be another; `note`
    says where the table has no measurement of the file. `latency_by_layer` is of the normalised model.
    """

    latency_ms: float | None = None
    normalised_ms: float | None = None
    latency_by_layer: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    table_notes: tuple[str, ...] = ()


def _predict(file: Path, source: Model, trace: Trace) -> _Prediction:
    """Read a latency table and predict. Raises NetadaptError for a table of another model."""
    from netadapt_onnx.graph.original_file import as_given
    from netadapt_onnx.profilers.breakdown import unit_ms
    from netadapt_onnx.profilers.table.original_time import predict_original
    from netadapt_onnx.profilers.table.predict import Table

    folded = trace.folded
    table = Table.load(file, folded.proto)
    latency = predict_original(table, as_given(source, folded.proto), folded.shapes)
    by_layer = unit_ms(table, folded.shapes)
    return _Prediction(latency.ms, latency.normalised_ms, by_layer, latency.note, tuple(table.notes))


def _layers(cost: Cost, trace: Trace, latency_by_layer: Mapping[str, float]) -> tuple[Layer, ...]:
    """The layers of a model with the groups that hold their output channels."""
    groups = {layer: group.name for group in trace.groups for layer in group.layers}
    return tuple(
        Layer(c.name, c.op, c.params, c.macs, groups.get(c.name), latency_by_layer.get(c.name)) for c in cost.layers
    )


def _with_cautions(
    inspection: Inspection, trace: Trace, prediction: _Prediction, cautions: tuple[str, ...]
) -> Inspection:
    """The inspection with what to know of it, if there is anything."""
    fields = vars(inspection)
    differs = prediction.note or prediction.latency_ms != prediction.normalised_ms
    if prediction.normalised_ms is not None and differs:
        cautions = (*cautions, prediction.note) if prediction.note else cautions
        return RunsOtherwise(**fields, notes=cautions, normalised_ms=prediction.normalised_ms)
    if not can_be_proven(trace.folded):
        unprovable = f"no cut of it can be proven here: {trace.folded.unrunnable}"
        return Unprovable(**fields, notes=(*cautions, unprovable))
    return Cautioned(**fields, notes=cautions) if cautions else inspection
