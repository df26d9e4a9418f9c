"""A model that proposals are cut from, and which of its channels stay at other widths."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.allowed_counts import removed_branches
from netadapt_onnx.search.evaluator import DataEvaluator
from netadapt_onnx.search.proposals import Proposal, Widths
from netadapt_onnx.surgery.criteria.elimination import Elimination
from netadapt_onnx.surgery.criteria.obs import criterion_of
from netadapt_onnx.surgery.criteria.scores import OBS, Criterion
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.reconstruct.gram import GramMatrices
from netadapt_onnx.surgery.residual_branches import Branch, prove_removal, rewired, traced_without
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.verify.prove import verify
from netadapt_onnx.training.activation_cache import ActivationCache, Prefix, unchanged_prefix

# Of the five inputs of a full proof: a wrong channel shows on the first.
PROOF_RUNS = 2
# By group, the indices of channels that a cut keeps.
KeptIndices = Mapping[str, np.ndarray]


class BaseModel:
    """A traced model that proposals are cut from. As bytes it holds nothing that can be computed again.

    Attributes:
        trace: The traced model.
        kept: The original's channels that it still has, for the groups that have lost any.
        removed: The original's branches that it has lost.
        changed: First outputs of the nodes that read other tensors since its last branches were removed, which nothing
            has made up for yet.
        trained: Whether its weights come from a final training: then it is no longer solved towards the original's
            layers, but towards its own.
    """

    def __init__(
        self,
        trace: Trace,
        kept: KeptIndices,
        removed: frozenset[str] = frozenset(),
        changed: frozenset[str] = frozenset(),
        *,
        trained: bool = False,
    ) -> None:
        """Remember nothing yet."""
        self.trace = trace
        self.kept = kept
        self.removed = removed
        self.changed = changed
        self.trained = trained
        self._gram_matrices: dict[str, GramMatrices] | None = None
        self._prefixes: ActivationCache | None = None
        self._lock = Lock()

    def gram_matrices(self, compute: Callable[[], dict[str, GramMatrices]]) -> dict[str, GramMatrices]:
        """The matrices that reconstruction solves with, computed on first use."""
        with self._lock:
            if self._gram_matrices is None:
                self._gram_matrices = compute()
            return self._gram_matrices

    def prefixes(self, evaluator: DataEvaluator) -> ActivationCache:
        """The activations of the ranking samples in front of each group's first layer, computed on first use."""
        with self._lock:
            if self._prefixes is None:
                fronts = [prefix_before_group(self.trace, group) for group in self.trace.prunable]
                self._prefixes = ActivationCache(self.trace.folded.proto, fronts, evaluator.ranking)
            return self._prefixes

    def rest(self) -> None:
        """Let go of the activations in front of the groups, which are soon computed again."""
        with self._lock:
            self._prefixes = None

    def without(self, branches: Collection[str]) -> BaseModel:
        """The model without some more branches; itself if there are none."""
        if not branches:
            return self
        trace = traced_without(self.trace, branches)
        changed = rewired(self.trace.folded, trace.folded)
        return BaseModel(trace, self.kept, self.removed | frozenset(branches), changed, trained=self.trained)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(BaseModel, trained=self.trained), (self.trace, self.kept, self.removed, self.changed)


def prefix_before_group(trace: Trace, group: Group) -> Prefix:
    """The nodes that no cut of a group reaches."""
    now, after = trace.flat.shapes, trace.resized_shapes(select(trace, {group.name: group.floor}, "first"))
    return unchanged_prefix(trace.folded.proto, {name for name, shape in after.items() if shape != now[name]})


def kept_after(kept: KeptIndices, cut: KeptIndices) -> dict[str, np.ndarray]:
    """The original's channels that a model has after a cut, for the groups that have lost any.

    Args:
        kept: The original's channels that the model has before the cut.
        cut: The model's channels that the cut keeps.
    """
    return dict(kept) | {name: kept[name][indices] if name in kept else indices for name, indices in cut.items()}


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

    def prove(self, proposal: Proposal) -> None:
        """Prove the cut of an accepted proposal before anything is trained. Raises NetadaptError if it is not exact."""
        if self.base is not self.start:
            prove_removal(self.start.trace.folded, self.base.removed - self.start.removed)
        proof = verify(self.base.trace, self.keep, runs=PROOF_RUNS)
        if not proof.exact:
            raise NetadaptError(
                f"the cut of group '{proposal.group}' to {proposal.channels} channels is not exact: tensor "
                f"'{proof.first_bad_tensor}' differs by {proof.max_rel_diff:.2g}",
                hint="please report this model",
                code="not-proven",
            )


class ChannelSelector:
    """Selects the channels that stay, by a criterion."""

    def __init__(
        self,
        original: BaseModel,
        branches: Sequence[Branch],
        criterion: str | Criterion,
        eliminations: Callable[[], Mapping[str, Elimination]] | None = None,
    ) -> None:
        """Select for models that are cut from `original`.

        Args:
            original: The original.
            branches: Its branches that may be removed.
            criterion: The criterion.
            eliminations: In which order `obs` lets the original's channels go, where that is computed anyway.
        """
        self._original = original
        self._branches = tuple(branches)
        is_obs = getattr(criterion, "__qualname__", None) == OBS
        self._criterion = criterion_of(lambda _: eliminations()) if is_obs and eliminations is not None else criterion
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
        keep = select(base.trace, fewer, self._criterion_of(base))
        return SelectedCut(current, base, keep, kept_after(current.kept, keep), groups)

    def _of_original(
        self, current: BaseModel, without: frozenset[str], channels: Widths, now: Mapping[str, int]
    ) -> SelectedCut:
        """The cut of the original; groups whose width stays keep their channels, the others are selected anew."""
        base = self._original.without(without)
        unchanged = {name for name, width in channels.items() if width == now[name]}
        as_before = {name: indices for name, indices in current.kept.items() if name in unchanged}
        others = {name: width for name, width in channels.items() if name not in as_before and name not in unchanged}
        keep = as_before | select(base.trace, others, self._criterion_of(base))
        return SelectedCut(self._original, base, keep, kept_after({}, keep), frozenset(channels))

    def _criterion_of(self, base: BaseModel) -> str | Criterion:
        """What ranks the channels of a model: the original's scores of them, where these serve every cut."""
        criterion, original = self._criterion, self._original.trace
        if isinstance(criterion, str) or not getattr(criterion, "serves_cuts", False):
            return criterion
        return lambda _, group: criterion(original, original.group(group.name))[base.kept.get(group.name, ...)]

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
