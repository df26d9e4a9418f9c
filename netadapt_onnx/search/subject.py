"""What is adapted: the model, traced and counted, and the data; all of it checked before anything is written."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.folding import fold, require_runnable
from netadapt_onnx.model import Model
from netadapt_onnx.profilers.cost import CostModel
from netadapt_onnx.search.arguments import Arguments
from netadapt_onnx.search.ladders import Counts, Ladder, Rungs
from netadapt_onnx.search.proposal import Widths
from netadapt_onnx.surgery import MEASURED, Trace, select
from netadapt_onnx.surgery import trace as traced
from netadapt_onnx.training.data import Dataset
from netadapt_onnx.training.loading import dataset_for

Predicted = Callable[[Mapping[str, tuple[int, ...]]], float]


@dataclass(frozen=True)
class Subject:
    """A model with at least one prunable group, and data that fit it (None if the caller evaluates)."""

    model: Model
    trace: Trace
    data: Dataset | None
    ladders: tuple[Ladder, ...]
    rungs: Rungs
    alignment: int = 1

    def aligned(self, alignment: int, counts: Counts) -> Subject:
        """The same for a device whose kernels like multiples: even landing on the budget keeps to `alignment`.

        `counts` are the best ones by its table, for `--step auto`. Several devices: call it for each; the alignments
        multiply, the last one's counts stand.
        """
        both = math.lcm(self.alignment, alignment)
        return replace(self, ladders=self.rungs.ladders(self.trace, both, counts), alignment=both)

    @property
    def widths(self) -> dict[str, int]:
        """The channel count of every prunable group."""
        return {rungs.group: rungs.channels for rungs in self.ladders}

    @property
    def floor(self) -> dict[str, int]:
        """The fewest channels that every prunable group can have."""
        return {rungs.group: rungs.fine[-1] for rungs in self.ladders}


def prepare(model: Model, data: str | os.PathLike[str] | None, arguments: Arguments) -> Subject:
    """Fold, trace and check a model and its data.

    Raises NetadaptError for a model that onnxruntime cannot run or that has no prunable group, data that do not fit,
    and neither data nor an evaluate function.
    """
    folded = fold(model.proto, dict(arguments.shapes), arguments.batch_size)
    require_runnable(folded)
    found = traced(folded)
    require_prunable(model, found)
    if data is None and arguments.evaluate is None:
        raise NetadaptError("nothing to judge models by", hint="give --data", code="usage")
    if data is None and arguments.rank == "finetune":
        raise NetadaptError("--rank finetune trains, so it needs --data", code="usage")
    if data is None and arguments.finalists:
        raise NetadaptError("--finalists are trained, so they need --data", code="usage")
    if data is None and arguments.criterion in MEASURED:
        raise NetadaptError(f"--criterion {arguments.criterion} looks at inputs", hint="give --data", code="usage")
    dataset = None if data is None else dataset_for(folded, data)
    rungs = arguments.rungs
    return Subject(model, found, dataset, rungs.ladders(found), rungs)


def require_prunable(model: Model, found: Trace) -> None:
    """Raise NetadaptError, with the reasons, for a model none of whose groups can be pruned."""
    if found.prunable:
        return
    reasons = {group.reason for group in found.groups if group.reason} or {"it has no layer with channels"}
    raise NetadaptError(
        f"{model.path}: no group of channels can be pruned: {', '.join(sorted(reasons)[:3])}",
        hint="`netadapt-onnx inspect` lists the groups",
        code="nothing-to-prune",
    )


@dataclass(frozen=True)
class Predictor:
    """Resources of the model at any widths, without building it: counted, and those of `predicted`, by resource.

    `extra_bytes` is what a written file holds besides the graph.
    """

    trace: Trace
    extra_bytes: int = 0
    predicted: Mapping[str, Predicted] = field(default_factory=dict)
    _count: CostModel = field(init=False)
    _known: dict[tuple[int, ...], dict[str, float]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_count", CostModel(self.trace.flat.proto))

    def __call__(self, widths: Widths) -> dict[str, float]:
        """Base units by resource name."""
        key = tuple(widths.values())
        if key not in self._known:
            shapes = self.trace.resized_shapes(select(self.trace, widths, "first"))
            amounts: dict[str, float] = {k: float(v) for k, v in self._count(shapes).resources.items()}
            amounts["size"] += self.extra_bytes
            amounts |= {name: predict(shapes) for name, predict in self.predicted.items()}
            self._known[key] = amounts
        return self._known[key]
