"""Convolutions in groups: every conv group keeps as many channels, which need not be the same ones.

Where nothing else couples them, the same index is kept in every group. Behind a channel shuffle, or a concatenation
that does not end where groups do, a channel has another index in each convolution that it meets; tied by index, two
channels of one group would stay or go together, then four, then all. There channels are tied in *bundles* instead:
the smallest sets that hold as many channels of every group of every convolution around. Any cut that takes whole
bundles keeps equal counts everywhere. (For two convolutions with a shuffle between them a bundle is a perfect matching
of the groups of one with those of the other, of which there are as many as a group has channels: Koenig, 1916.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netadapt_onnx.common.grouping import grouped
from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.surgery.labels import Labels
from netadapt_onnx.surgery.union_find import UnionFind

# Steps of one search for a bundle, and of all searches among channels that belong together, before the rest is one.
SEARCH_STEPS, ALL_STEPS = 250, 6000
Table = tuple[Array, str]  # labels (groups, n), and what they are


def tie_by_index(labels: Labels) -> list[list[Table]]:
    """Tie the same index of all groups where that ties no two channels of one group.

    Returns the tables where it would, those that have channels in common together.
    """
    uneven = []
    pinned = labels.pinned_sets()
    for tables in _connected(labels):
        if _is_even(_Counts.of(labels, tables, pinned)):
            continue
        if _collapses(labels, tables):
            uneven.append(tables)
            continue
        for table, reason in tables:
            labels.collapse(table, 0, reason)
    return uneven


def tie_in_bundles(labels: Labels, uneven: Sequence[Sequence[Table]]) -> None:
    """Tie channels so that each set of tied ones has as many members in every row of each table."""
    for tables in uneven:
        pinned = labels.pinned_sets()
        counts = _Counts.of(labels, tables, pinned)
        bundles = _bundles(counts)
        if len(bundles.free) <= _removable_by_index(labels, tables, pinned):
            for table, reason in tables:
                labels.collapse(table, 0, reason)
            continue
        reason = tables[0][1]
        for bundle in bundles.free:
            labels.ties.tie(np.full(len(bundle), bundle[0]), bundle)
        if len(bundles.fixed):
            labels.pin(bundles.fixed, reason)


def _connected(labels: Labels) -> list[list[Table]]:
    """The tables by what they have in common, directly or through others; in order."""
    sets = UnionFind()
    sets.fresh(len(labels.ties))
    for table, _ in labels.balances:
        roots = np.unique(labels.ties.roots(table[table > 0]))
        sets.tie(np.full(len(roots), roots[0]), roots)
    firsts = (labels.ties.roots(table[table > 0])[:1] for table, _ in labels.balances)
    return list(grouped(zip((int(sets.roots(first)[0]) for first in firsts), labels.balances, strict=True)).values())


def _is_even(counts: _Counts) -> bool:
    """Whether every set of tied channels has as many members in every row already."""
    return not counts.missing(counts.kinds).any() and not counts.missing(counts.fixed).any()


def _by_index(labels: Labels, tables: Sequence[Table]) -> tuple[Array, Array]:
    """The roots there are in some tables, and the set of each (from 1) if the same indices were tied."""
    roots = np.unique(np.concatenate([labels.ties.roots(table[table > 0]) for table, _ in tables]))
    sets = UnionFind()
    sets.fresh(len(roots))
    for table, _ in tables:
        row = labels.ties.roots(table[0])
        for other in labels.ties.roots(table[1:]):
            both = (row > 0) & (other > 0)
            sets.tie(np.searchsorted(roots, row[both]) + 1, np.searchsorted(roots, other[both]) + 1)
    return roots, sets.roots(np.arange(1, len(roots) + 1))


def _collapses(labels: Labels, tables: Sequence[Table]) -> bool:
    """Whether tying the same indices would tie channels of one group."""
    roots, sets = _by_index(labels, tables)
    for table, _ in tables:
        for row in labels.ties.roots(table):
            own = np.unique(row[row > 0])
            if len(np.unique(sets[np.searchsorted(roots, own)])) < len(own):
                return True
    return False


def _removable_by_index(labels: Labels, tables: Sequence[Table], pinned: NDArray[np.bool_]) -> int:
    """How many sets could go if the same indices were tied."""
    roots, sets = _by_index(labels, tables)
    stay = set(sets[pinned[roots]].tolist())
    for table, _ in tables:
        partial = table[:, (table == 0).any(axis=0)]  # indices at which some group has no label
        met = labels.ties.roots(partial[partial > 0])
        stay |= set(sets[np.searchsorted(roots, met)].tolist())
    return len(set(sets.tolist()) - stay)


@dataclass(frozen=True)
class _Counts:
    """How often sets of tied channels occur in each row of several tables.

    `kinds` (kinds, rows) holds the different ways to occur, `members[k]` the roots of the sets that occur like that;
    `fixed` (rows,) counts what stays in any case. Rows `starts[i]` to `starts[i + 1]` are those of one table.
    """

    kinds: Array
    members: tuple[Array, ...]
    fixed: Array
    starts: Array

    @classmethod
    def of(cls, labels: Labels, tables: Sequence[Table], pinned: NDArray[np.bool_]) -> _Counts:
        """Count the occurrences of all sets in `tables`; `pinned` says of each root label whether it must stay."""
        roots_of_tables = [labels.ties.roots(table) for table, _ in tables]
        roots = np.unique(np.concatenate([rows[rows > 0] for rows in roots_of_tables]))
        starts = np.cumsum([0, *(len(rows) for rows in roots_of_tables)])
        counts = np.zeros((len(roots) + 1, starts[-1]), np.int64)  # the first for positions without a label
        for start, rows in zip(starts, roots_of_tables, strict=False):
            for k, row in enumerate(rows):
                indices = np.where(row > 0, np.searchsorted(roots, row) + 1, 0)
                counts[:, start + k] += np.bincount(indices, minlength=len(counts))
        stays = np.concatenate([[True], pinned[roots]])
        kinds, which = np.unique(counts[~stays], axis=0, return_inverse=True)
        free = roots[~stays[1:]]
        members = tuple(free[which.reshape(-1) == k] for k in range(len(kinds)))
        return cls(kinds, members, counts[stays].sum(axis=0), starts)

    def missing(self, sums: Array) -> Array:
        """How much rows (..., rows) lack of the fullest one of their table."""
        most = np.maximum.reduceat(sums, self.starts[:-1], axis=-1)
        return np.repeat(most, np.diff(self.starts), axis=-1) - sums


@dataclass(frozen=True)
class _Bundles:
    """Sets of roots that may go, each as a whole; and `fixed` roots, which stay to match what stays in any case.

    Unless `is_complete`, the last of them is what the search could not divide.
    """

    free: tuple[Array, ...]
    fixed: Array
    is_complete: bool


def _bundles(counts: _Counts) -> _Bundles:
    """Search for bundles in two ways, each of which finds some that the other gives up on; returns the more of both."""
    one = _divided(counts, _Search(counts, by_scarcity=False))
    if one.is_complete:
        return one
    return max(one, _divided(counts, _Search(counts, by_scarcity=True)), key=lambda bundles: len(bundles.free))


def _divided(counts: _Counts, search: _Search) -> _Bundles:
    """Divide all sets into balanced bundles, of each shape as many as there can be; what remains is always balanced."""
    remaining = np.array([len(members) for members in counts.members], np.int64)
    used = np.zeros_like(remaining)

    def take(bundle: Array) -> Array:
        parts = [m[u : u + n] for m, u, n in zip(counts.members, used, bundle, strict=True)]
        used[:] += bundle
        remaining[:] -= bundle
        return np.concatenate(parts)

    fixed = np.zeros(0, np.int64)
    if counts.missing(counts.fixed).any():
        match = search.complete(counts.fixed, remaining)
        fixed = take(remaining.copy() if match is None else match)
    free: list[Array] = []
    for kind in search.seeds().tolist():
        while remaining[kind]:
            seed = np.zeros_like(remaining)
            seed[kind] = 1
            rest = search.complete(counts.kinds[kind], remaining - seed)
            if rest is None:
                break
            bundle = seed + rest
            times = int((remaining[bundle > 0] // bundle[bundle > 0]).min())
            free.extend(take(bundle) for _ in range(times))
    is_complete = not remaining.any()
    if not is_complete:
        free.append(take(remaining.copy()))
    return _Bundles(tuple(free), fixed, is_complete)


class _Search:
    """Depth-first search for few sets that fill the rows of every table evenly.

    The next row to be filled is the first that lacks something, or, `by_scarcity`, one that few kinds are in.
    """

    def __init__(self, counts: _Counts, *, by_scarcity: bool) -> None:
        self._counts = counts
        self._scarcity = (counts.kinds > 0).sum(axis=0) if by_scarcity else np.zeros(counts.starts[-1], np.int64)
        self._all = ALL_STEPS
        self._steps = 0
        self._by_table = np.add.reduceat(counts.kinds, counts.starts[:-1], axis=1)
        self._largest = np.maximum(self._by_table.max(axis=0, initial=1), 1)

    def seeds(self) -> Array:
        """The kinds in the order in which bundles are built around them: first those that few tables hold."""
        return np.lexsort((np.arange(len(self._by_table)), (self._by_table > 0).sum(axis=1)))

    def complete(self, sums: Array, remaining: Array) -> Array | None:
        """How many of each kind fill up `sums` (rows,), of those `remaining` (kinds,); None if the search gave up.

        First as many sets as there are groups at most, then twice as many, and so on.
        """
        depth = int(np.diff(self._counts.starts).max())
        while True:
            self._steps = min(SEARCH_STEPS, self._all)
            self._all -= self._steps
            bundle = self._fill(sums, remaining.copy(), depth)
            self._all += max(self._steps, 0)
            if bundle is not None:
                return bundle
            if self._all <= 0 or depth >= remaining.sum():
                return None
            depth *= 2

    def _fill(self, sums: Array, remaining: Array, depth: int) -> Array | None:
        """The first set of bundles that fills all rows within `depth` more sets; None if there is none."""
        missing = self._counts.missing(sums)
        if not missing.any():
            return np.zeros_like(remaining)
        self._steps -= 1
        lacking = np.add.reduceat(missing, self._counts.starts[:-1])
        if self._steps <= 0 or int(np.max(-(-lacking // self._largest))) > depth:
            return None
        if (remaining @ self._counts.kinds < missing).any():
            return None
        row = int(np.argmin(np.where(missing > 0, self._scarcity, np.iinfo(np.int64).max)))
        kinds = np.flatnonzero((remaining > 0) & (self._counts.kinds[:, row] > 0))
        after = self._counts.missing(sums + self._counts.kinds[kinds]).sum(axis=1)
        for kind in kinds[np.lexsort((kinds, after))].tolist():
            remaining[kind] -= 1
            rest = self._fill(sums + self._counts.kinds[kind], remaining, depth - 1)
            remaining[kind] += 1
            if rest is not None:
                rest[kind] += 1
                return rest
        return None
