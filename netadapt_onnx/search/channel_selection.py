"""Which channels stay where a model gets other widths: of the current model, or of the original to give some back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netadapt_onnx.search.base_model import BaseModel, KeptIndices, kept_after
from netadapt_onnx.search.branch_choices import removed_branches
from netadapt_onnx.search.proposals import Widths
from netadapt_onnx.surgery.criteria.scores import Criterion
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.residual_branches import Branch


@dataclass(frozen=True)
class SelectedCut:
    """A cut to given widths.

    Attributes:
        start: The model that is cut: the current one, or the original.
        base: The same without the branches that are removed.
        keep: By group, the indices of the channels of `base` that stay.
        kept: The original's channels that the model has after the cut, for the groups that have lost any.
        groups: The groups whose branches the model still has.
    """

    start: BaseModel
    base: BaseModel
    keep: KeptIndices
    kept: KeptIndices
    groups: frozenset[str]


class ChannelSelector:
    """Selects the channels that stay, by a criterion."""

    def __init__(self, original: BaseModel, branches: Sequence[Branch], criterion: str | Criterion) -> None:
        """Select for models that are cut from `original`, of which `branches` may be removed."""
        self._original = original
        self._branches = tuple(branches)
        self._criterion = criterion
        self._groups_without: dict[frozenset[str], frozenset[str]] = {}

    def cut(self, current: BaseModel, widths: Widths) -> SelectedCut:
        """The cut to these widths: of the current model, or of the original if anything is given back."""
        without = removed_branches(self._branches, widths)
        groups = self._groups(without)
        channels = {name: width for name, width in widths.items() if name in groups}
        now = self._channels_of(current, channels)
        wider = {name for name, width in channels.items() if width > now[name]}
        if wider or not without >= current.removed:
            return self._of_original(current, without, channels, now)
        base = current.without(without - current.removed)
        fewer = {name: width for name, width in channels.items() if width < now[name]}
        keep = select(base.trace, fewer, self._criterion)
        return SelectedCut(current, base, keep, kept_after(current.kept, keep), groups)

    def _of_original(
        self, current: BaseModel, without: frozenset[str], channels: Widths, now: Mapping[str, int]
    ) -> SelectedCut:
        """The cut of the original; groups whose width stays keep their channels, the others are selected anew."""
        base = self._original.without(without)
        unchanged = {name for name, width in channels.items() if width == now[name]}
        as_before = {name: indices for name, indices in current.kept.items() if name in unchanged}
        others = {name: width for name, width in channels.items() if name not in as_before and name not in unchanged}
        keep = as_before | select(base.trace, others, self._criterion)
        return SelectedCut(self._original, base, keep, kept_after({}, keep), frozenset(channels))

    def _channels_of(self, current: BaseModel, names: Widths) -> dict[str, int]:
        """The channel counts of groups of the current model.

        They are not those of its trace: a group of one channel is no group there, but may be given channels back.
        """
        original = self._original.trace
        return {
            name: len(current.kept[name]) if name in current.kept else original.group(name).channels for name in names
        }

    def _groups(self, without: frozenset[str]) -> frozenset[str]:
        """The groups of the original without some branches."""
        if without not in self._groups_without:
            trace = self._original.without(without).trace
            self._groups_without[without] = frozenset(group.name for group in trace.groups)
        return self._groups_without[without]
