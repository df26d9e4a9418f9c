"""The model and the data of a search: folded, traced and checked before anything is written."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import onnx

from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.data.sample_shapes import fold_for
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.folded_model import require_runnable
from netadapt_onnx.graph.model import Model
from netadapt_onnx.search.allowed_counts import AllowedCounts, ChannelChoices, Counts, with_branches
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.surgery.criteria.selection import MEASURED, select
from netadapt_onnx.surgery.obstacles import require_prunable
from netadapt_onnx.surgery.residual_branches import Branch, find_branches, traced_without
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.trace import trace as traced


@dataclass(frozen=True)
class PreparedModel:
    """A model with at least one prunable group, and data that fit it.

    Attributes:
        model: The user's model.
        trace: The same, folded and traced.
        data: The samples; None if the caller's function evaluates.
        choices: The channel counts that every group may have, and the counts of every branch.
        allowed_counts: The user's options on channel counts.
        alignment: Fine channel counts are multiples of it.
        branches: The branches that may be removed.
    """

    model: Model
    trace: Trace
    data: Dataset | None
    choices: tuple[ChannelChoices, ...]
    allowed_counts: AllowedCounts
    alignment: int = 1
    branches: tuple[Branch, ...] = ()

    def aligned(self, alignment: int, counts: Counts) -> PreparedModel:
        """The same for a device whose kernels are fastest at multiples of `alignment`, to which all counts then keep.

        It is called for every device: the alignments multiply, and the last one's counts stand.

        Args:
            alignment: The alignment of the device's kernels.
            counts: The best channel counts by its table, for `--step auto`.
        """
        both = math.lcm(self.alignment, alignment)
        choices = with_branches(self.allowed_counts.choices(self.trace, both, counts), self.branches)
        return replace(self, choices=choices, alignment=both)

    def preferring(self, alignment: int) -> PreparedModel:
        """The same for a device without a budget: counts keep to multiples of `alignment` where that costs nothing."""
        return replace(self, choices=tuple(choice.preferring(alignment) for choice in self.choices))

    @property
    def widths(self) -> dict[str, int]:
        """The channel count of every prunable group, and 1 for every branch."""
        return {choice.group: choice.channels for choice in self.choices}

    @property
    def floor(self) -> dict[str, int]:
        """The fewest channels that every prunable group can have; branches are removed."""
        return {choice.group: choice.fine[-1] for choice in self.choices}

    def smallest(self) -> onnx.ModelProto:
        """The narrowest model, without its branches."""
        trace = traced_without(self.trace, [branch.name for branch in self.branches])
        groups = {group.name for group in trace.groups}
        return resize(trace, select(trace, {n: width for n, width in self.floor.items() if n in groups}, "first"))


def prepare(model: Model, data: str | os.PathLike[str] | None, arguments: AdaptOptions) -> PreparedModel:
    """Fold, trace and check a model and its data.

    Args:
        model: The model.
        data: The path of the data; None if the caller's function evaluates.
        arguments: The user's options.

    Raises:
        NetadaptError: onnxruntime cannot run the model, it has no prunable group, the data do not fit it, or there are
            neither data nor a function that evaluates.
    """
    folded = fold_for(model.proto, dict(arguments.shapes), data, arguments.batch_size)
    require_runnable(folded)
    trace = traced(folded)
    require_prunable(trace, model.path)
    if data is None and arguments.evaluate is None:
        raise NetadaptError("nothing to judge models by", hint="give --data", code="usage")
    if data is None and arguments.rank == "finetune":
        raise NetadaptError("--rank finetune trains, so it needs --data", code="usage")
    if data is None and (arguments.strategy == "curves" or arguments.begins_with_curves):
        flag = "--strategy" if arguments.strategy == "curves" else "--start"
        raise NetadaptError(f"{flag} curves looks at inputs, so it needs --data", code="usage")
    if data is None and arguments.finalists:
        raise NetadaptError("--finalists are trained, so they need --data", code="usage")
    criterion = arguments.criterion_for(has_inputs=data is not None)
    if data is None and criterion in MEASURED:
        raise NetadaptError(f"--criterion {criterion} looks at inputs", hint="give --data", code="usage")
    dataset = None if data is None else load_dataset(folded, data, scored=arguments.evaluate is None)
    allowed_counts = arguments.allowed_counts
    choices = allowed_counts.choices(trace)
    branches = () if arguments.keep_blocks else find_branches(trace)
    if arguments.allow_block_removal and not branches:
        raise NetadaptError(
            f"{model.path}: --allow-block-removal: no branch adds to a tensor that it is computed from",
            hint="leave it out",
            code="nothing-to-prune",
        )
    protected = allowed_counts.protected(trace)  # frozen groups and those with a floor keep their branch
    branches = tuple(branch for branch in branches if protected.isdisjoint(branch.groups))
    return PreparedModel(model, trace, dataset, with_branches(choices, branches), allowed_counts, branches=branches)
