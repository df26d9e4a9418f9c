"""A model that proposals are cut from, and what is computed of it once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from netadapt_onnx.search.evaluator import DataEvaluator
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.reconstruct.gram import GramMatrices
from netadapt_onnx.surgery.residual_branches import rewired, traced_without
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.activation_cache import ActivationCache, Prefix, unchanged_prefix

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
