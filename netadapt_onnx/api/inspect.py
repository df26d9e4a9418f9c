"""What a model costs, layer by layer, and which of its channels can go: what `inspect` shows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from onnx import TensorProto

from netadapt_onnx.api.options import InspectOptions
from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.options import without_none
from netadapt_onnx.common.progress import reporter
from netadapt_onnx.common.resources import Resources
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import Cost, CostModel
from netadapt_onnx.graph.folding import fold
from netadapt_onnx.graph.model import Model, data_file, load, load_without_weights, refuse_existing
from netadapt_onnx.graph.original_file import as_given
from netadapt_onnx.surgery import Choices, Explanation, Group, Trace, explain, template, trace
from netadapt_onnx.surgery.obstacles import UNKNOWN_SHAPE, notes, unknown_shapes
from netadapt_onnx.surgery.states import with_states
from netadapt_onnx.surgery.verify.around import can_be_proven

if TYPE_CHECKING:
    from netadapt_onnx.api.keywords import InspectKeywords
    from netadapt_onnx.search.sensitivity import Sensitivities

Source = str | os.PathLike[str] | Model
Shapes = Mapping[str, tuple[int, ...]]


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
    """A model's totals (`latency_ms`: a table's prediction), its layers in topological order, and its groups."""

    model: Resources
    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Cautioned(Inspection):
    """An inspection with what to know of it: what of the model stays as it is, what the table says of itself."""

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


def opened(source: Source) -> Model:
    """A model from its path, or as it is if it is loaded already."""
    return source if isinstance(source, Model) else load(source)


def prepare_output(output: Path, overwrite: bool, *inputs: Source | None) -> None:
    """Raise NetadaptError if `output` may not be written: it is an input, it exists, or its folder is missing.

    `inputs` are all files that the work reads; those of a Model include its external data.
    """
    for given in inputs:
        for file in _files(given):
            if _same(output, file) or _same(data_file(output), file):
                raise NetadaptError(
                    f"{file} is an input, which is never overwritten", hint="choose another output", code="exists"
                )
    refuse_existing(output, overwrite)


def _files(given: Source | None) -> tuple[Path, ...]:
    if given is None:
        return ()
    return given.files if isinstance(given, Model) else (Path(given),)


def _same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.samefile(b)


def traced(
    model: Model,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    choices: Choices | None = None,
    *,
    in_place: bool = False,
) -> Trace:
    """Fold and trace a model; with `in_place` its own proto is folded, which spares a copy of its weights.

    Raises NetadaptError if the model is wrong or an axis needs `shapes`.
    """
    folded = fold(model.proto, dict(shapes or {}), batch_size, in_place=in_place)
    left = any(tensor.data_location == TensorProto.EXTERNAL for tensor in folded.proto.graph.initializer)
    return trace(replace(folded, file=model.path) if left else folded, choices)


def counted_at(found: Trace, count: CostModel, shapes: Shapes) -> Cost:
    """What a traced model costs at these shapes. Raises NetadaptError, with the operator, where one is not known."""
    try:
        return count(shapes)
    except NetadaptError as error:
        if error.code != UNKNOWN_SHAPE:
            raise
        raise unknown_shapes(found) from error


def resources(counted: Cost, size_bytes: int | None = None, latency_ms: float | None = None) -> Resources:
    """A Cost as results show it; `size_bytes` of the file itself, where there is one."""
    size = counted.size_bytes if size_bytes is None else size_bytes
    return Resources(counted.params, counted.macs, size, counted.memory_bytes, latency_ms)


def inspect(
    model: Source,
    **options: Unpack[InspectKeywords],
) -> Inspection:
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
    settings = InspectOptions(**without_none(options))
    if settings.sensitivity and (settings.data is None or settings.explained is not None):
        why = "needs data to judge by" if settings.data is None else "and an explanation are two questions"
        raise NetadaptError(f"--sensitivity {why}", hint="give --data alone", code="usage")
    if isinstance(model, Model) or settings.table is not None or settings.sensitivity:
        source = opened(model)
    else:
        source = load_without_weights(model)
    if settings.write_plan is not None:
        prepare_output(Path(settings.write_plan), settings.overwrite, source, settings.table)
    found = with_states(
        traced(source, settings.shapes, settings.batch_size, settings.choices, in_place=source is not model)
    )
    folded = found.folded
    counted = counted_at(found, CostModel(found.flat.proto), found.flat.shapes)
    timed, times = None, {}
    cautions = (*notes(found), *folded.unfinished)
    if settings.table is not None:
        from netadapt_onnx.profilers.breakdown import unit_ms
        from netadapt_onnx.profilers.table.original_time import predicted
        from netadapt_onnx.profilers.table.predict import Table

        known = Table.load(Path(settings.table), folded.proto)
        timed = predicted(known, as_given(source, folded.proto), folded.shapes)
        times, cautions = unit_ms(known, folded.shapes), (*cautions, *known.notes)
    owner = {layer: group.name for group in found.groups for layer in group.layers}
    layers = tuple(Layer(c.name, c.op, c.params, c.macs, owner.get(c.name), times.get(c.name)) for c in counted.layers)
    reasons = () if settings.explained is None else explain(found, settings.explained)
    if settings.write_plan is not None:
        write_atomically(Path(settings.write_plan), template(found).encode())
    totals = resources(counted, source.size_bytes, None if timed is None else timed.ms)
    if settings.sensitivity and settings.data is not None:
        from netadapt_onnx.search.sensitivity import sensitivity as tested

        lost = tested(
            found,
            settings.data,
            criterion=settings.criterion,
            seed=settings.seed,
            progress=settings.progress or reporter(),
        )
        return Sensitive(totals, layers, found.groups, lost, cautions)
    if settings.explained is not None:
        explained_so = (totals, layers, found.groups, reasons)
        return ExplainedWithNotes(*explained_so, cautions) if cautions else Explained(*explained_so)
    inspected = (totals, layers, found.groups)
    if timed is not None and (timed.note or timed.ms != timed.normalised_ms):
        cautions = (*cautions, timed.note) if timed.note else cautions
        return RunsOtherwise(*inspected, cautions, timed.normalised_ms)
    if not can_be_proven(folded):
        return Unprovable(*inspected, (*cautions, f"no cut of it can be proven here: {folded.unrunnable}"))
    return Cautioned(*inspected, cautions) if cautions else Inspection(*inspected)
