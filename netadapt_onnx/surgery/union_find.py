"""Union-find over channel labels, vectorised: whole arrays are tied at once, never a loop over channels."""

from __future__ import annotations

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array


class UnionFind:
    """Disjoint sets of labels 1, 2, ...; 0 stands for 'no label' and is never tied. A root is its set's minimum."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self._count = 1

    def __len__(self) -> int:
        return self._count

    def fresh(self, n: int) -> Array:
        """`n` new labels, each in a set of its own."""
        end = self._count + n
        if end > len(self._parent):
            grown = np.zeros(max(end, 2 * len(self._parent)), np.int64)
            grown[: self._count] = self._parent[: self._count]
            self._parent = grown
        labels = np.arange(self._count, end, dtype=np.int64)
        self._parent[self._count : end] = labels
        self._count = end
        return labels

    def roots(self, labels: Array) -> Array:
        """The root of each label; the same shape as `labels`."""
        roots = self._parent[labels]
        while True:
            parents = self._parent[roots]
            if np.array_equal(parents, roots):
                break
            roots = parents
        self._parent[labels] = roots
        return roots

    def all_roots(self) -> Array:
        """The root of every label there is, indexed by label."""
        return self.roots(np.arange(len(self)))

    def tie(self, a: Array, b: Array) -> None:
        """Unite the sets of `a` and `b` elementwise (equal shapes, no zeros)."""
        while True:
            root_a, root_b = self.roots(a), self.roots(b)
            differs = root_a != root_b
            if not differs.any():
                return
            a, b = root_a[differs], root_b[differs]
            # Several pairs may share a root: the minimum wins this round, the others follow in the next.
            np.minimum.at(self._parent, np.maximum(a, b), np.minimum(a, b))


def components(labels: Array, axis: int) -> int:
    """How many sets would be left if `labels` were tied along every axis but `axis`."""
    rows = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
    _, rows = np.unique(rows, return_inverse=True)
    rows = rows.reshape(labels.shape[axis], -1)
    best = np.arange(rows.max() + 1)
    while True:
        row = best[rows].min(axis=1)
        spread = best.copy()
        np.minimum.at(spread, rows, row[:, None])
        if np.array_equal(spread, best):
            return len(np.unique(row))
        best = spread
