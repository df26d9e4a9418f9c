"""What is adapted: the model, traced and counted, and the data; all of it checked before anything is written."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import onnx

from netadapt_onnx.common.resources import COUNTED
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.data.load import dataset_for
from netadapt_onnx.data.sample_shapes import fold_for
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import CostModel
from netadapt_onnx.graph.folded_model import require_runnable
from netadapt_onnx.graph.model import Model
from netadapt_onnx.search.block_removal import branch_ladders, removed
from netadapt_onnx.search.channel_choices import ChannelChoices, Counts, Rungs
from netadapt_onnx.search.options import Arguments
from netadapt_onnx.search.proposal import Widths
from netadapt_onnx.surgery.blocks import Branch, find_branches, same_groups, traced_without
from netadapt_onnx.surgery.criteria.selection import MEASURED, select
from netadapt_onnx.surgery.obstacles import require_prunable
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.trace import trace as traced

Predicted = Callable[[Mapping[str, tuple[int, ...]]], float]
# Where a predicted resource goes: each unit's share of it by its main layer's name; empty if unknown.
Spent = Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, float]]


@dataclass(frozen=True)
class PreparedModel:
    """A model with at least one prunable group, and data that fit it (None if the caller evaluates).

    `branches` are those that may be removed; `ladders` are of groups and of branches.
    """

    model: Model
    trace: Trace
    data: Dataset | None
    ladders: tuple[ChannelChoices, ...]
    rungs: Rungs
    alignment: int = 1
    branches: tuple[Branch, ...] = ()

    def aligned(self, alignment: int, counts: Counts) -> PreparedModel:
        """The same for a device whose kernels like multiples: even landing on the budget keeps to `alignment`.

        `counts` are the best ones by its table, for `--step auto`. Several devices: call it for each; the alignments
        multiply, the last one's counts stand.
        """
        both = math.lcm(self.alignment, alignment)
        ladders = (*self.rungs.ladders(self.trace, both, counts), *branch_ladders(self.branches))
        return replace(self, ladders=ladders, alignment=both)

    @property
    def widths(self) -> dict[str, int]:
        """The channel count of every prunable group, and 1 for every branch."""
        return {rungs.group: rungs.channels for rungs in self.ladders}

    @property
    def floor(self) -> dict[str, int]:
        """The fewest channels that every prunable group can have; branches are gone."""
        return {rungs.group: rungs.fine[-1] for rungs in self.ladders}

    def smallest(self) -> onnx.ModelProto:
        """The narrowest model, without its branches."""
        left = traced_without(self.trace, [branch.name for branch in self.branches])
        there = {group.name for group in left.groups}
        return resize(left, select(left, {n: w for n, w in self.floor.items() if n in there}, "first"))


def prepare(model: Model, data: str | os.PathLike[str] | None, arguments: Arguments) -> PreparedModel:
    """Fold, trace and check a model and its data.

    Raises NetadaptError for a model that onnxruntime cannot run or that has no prunable group, data that do not fit,
    and neither data nor an evaluate function.
    """
    folded = fold_for(model.proto, dict(arguments.shapes), data, arguments.batch_size)
    require_runnable(folded)
    found = traced(folded)
    require_prunable(found, model.path)
    if data is None and arguments.evaluate is None:
        raise NetadaptError("nothing to judge models by", hint="give --data", code="usage")
    if data is None and arguments.rank == "finetune":
        raise NetadaptError("--rank finetune trains, so it needs --data", code="usage")
    if data is None and arguments.finalists:
        raise NetadaptError("--finalists are trained, so they need --data", code="usage")
    if data is None and arguments.criterion in MEASURED:
        raise NetadaptError(f"--criterion {arguments.criterion} looks at inputs", hint="give --data", code="usage")
    dataset = None if data is None else dataset_for(folded, data, scored=arguments.evaluate is None)
    rungs = arguments.rungs
    ladders = rungs.ladders(found)
    branches = _removable(model, found, rungs) if arguments.allow_block_removal else ()
    return PreparedModel(model, found, dataset, (*ladders, *branch_ladders(branches)), rungs, branches=branches)


def _removable(model: Model, found: Trace, rungs: Rungs) -> tuple[Branch, ...]:
    """The branches in which no group is frozen or has a floor. Raises NetadaptError if the model has none."""
    branches = find_branches(found)
    if not branches:
        raise NetadaptError(
            f"{model.path}: --allow-block-removal: no branch adds to a tensor that it is computed from",
            hint="leave it out",
            code="nothing-to-prune",
        )
    held = rungs.held(found)
    return tuple(branch for branch in branches if held.isdisjoint(branch.groups))


@dataclass(frozen=True)
class Predictor:
    """Resources of the model at any widths, without building it: counted, and those of `predicted`, by resource.

    `extra_bytes` is what a written file holds besides the graph. Of a model without some of the `branches` a predicted
    resource is less by what it `spent` on them or, where nobody knows, by their share of the macs.
    """

    trace: Trace
    extra_bytes: int = 0
    predicted: Mapping[str, Predicted] = field(default_factory=dict)
    branches: tuple[Branch, ...] = ()
    spent: Mapping[str, Spent] = field(default_factory=dict)
    _known: dict[tuple[int, ...], dict[str, float]] = field(init=False, default_factory=dict)
    _left: dict[frozenset[str], tuple[Trace, CostModel, bool]] = field(init=False, default_factory=dict)

    def __call__(self, widths: Widths) -> dict[str, float]:
        """Base units by resource name."""
        key = tuple(widths.values())
        if key not in self._known:
            gone = removed(self.branches, widths)
            # What went with a branch costs nothing, however wide it was: more or less of it changes no prediction.
            dead = {name for branch in self.branches if branch.name in gone for name in branch.groups}
            widths = {**widths, **{name: self.trace.group(name).channels for name in dead}}
            shapes, amounts = self._counted(frozenset(), widths)
            spent = {name: predict(shapes) for name, predict in self.predicted.items()}
            if gone:
                whole = amounts["macs"]
                amounts = self._counted(gone, widths)[1]
                share = amounts["macs"] / whole
                spent = {name: ms * self._left_of(name, shapes, gone, share) for name, ms in spent.items()}
            self._known[key] = amounts | spent
        return self._known[key]

    def _left_of(
        self, resource: str, shapes: Mapping[str, tuple[int, ...]], gone: frozenset[str], macs: float
    ) -> float:
        """The share of a predicted resource that a model without some branches needs."""
        units = self.spent[resource](shapes) if resource in self.spent and math.isfinite(macs) else {}
        nodes = frozenset[str]().union(*(branch.nodes for branch in self.branches if branch.name in gone))
        less = sum(ms for layer, ms in units.items() if layer in nodes)
        return 1 - less / sum(units.values()) if units else macs

    def _counted(self, gone: frozenset[str], widths: Widths) -> tuple[Mapping[str, tuple[int, ...]], dict[str, float]]:
        """Shapes and counted resources without some branches; infinite where the groups would not be the original's."""
        if gone not in self._left:
            left = traced_without(self.trace, gone)
            self._left[gone] = left, CostModel(left.flat.proto), not gone or same_groups(self.trace, left)
        left, count, possible = self._left[gone]
        if not possible:
            return {}, dict.fromkeys(COUNTED, math.inf)
        there = {group.name for group in left.groups}
        shapes = left.resized_shapes(select(left, {n: w for n, w in widths.items() if n in there}, "first"))
        amounts = {name: float(value) for name, value in count(shapes).resources.items()}
        return shapes, amounts | {"size": amounts["size"] + self.extra_bytes}
