"""The channel counts worth proposing: the best point of each step of the latency staircase, by a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from netadapt_onnx.profilers.table.arrays import Floats
from netadapt_onnx.profilers.table.file import Shapes
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.trace import Trace

# A step ends where the next channels cost at least this share of what channels cost on average over the group.
RISE = 0.5
# Predictions that differ by less than this share are equal: the fit is not better than that.
EQUAL = 1e-3


def best_counts(table: Table, trace: Trace, group: str, widths: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """The channel counts of a group, descending from its present one, at which nothing is wasted.

    A count is left out if more channels are predicted to cost no more, or if the next larger ones are on the same step:
    nearly as fast. All counts are multiples of the group's structural step and of the table's alignment.

    Args:
        table: predicts the time of each unit.
        trace: the model.
        group: the group's name.
        widths: the present counts of groups by name (default: the model's own).

    Raises:
        NetadaptError: the model has no such group.
    """
    pruned = trace.group(group)
    present = dict(widths or {})
    counts = _candidates(pruned, present.get(group, pruned.channels), table.staircase.alignment)
    times = np.array([sum(table.predict_units(shapes).values()) for shapes in _shapes(trace, pruned, present, counts)])
    return tuple(counts[i] for i in best_points(counts, times))


def best_points(counts: Sequence[int], times: Floats) -> list[int]:
    """Indices of the best point of each step of a staircase; `counts` descend, the first is always kept.

    A point is kept if no larger count is as fast, and if the way to the next larger such count rises at least half as
    steeply as the staircase does on the whole: else both lie on one step, and the larger is its best point.
    """
    frontier: list[int] = []
    for i, time in enumerate(times.tolist()):
        if not frontier or time < times[frontier[-1]] * (1 - EQUAL):
            frontier.append(i)
    last = frontier[-1]
    slope = float(times[0] - times[last]) / max(1, counts[0] - counts[last])
    kept = frontier[:1]
    for above, i in pairwise(frontier):
        if float(times[above] - times[i]) >= RISE * slope * (counts[above] - counts[i]):
            kept.append(i)
    return kept


def _candidates(group: Group, present: int, alignment: int) -> list[int]:
    fine = math.lcm(group.step, alignment)
    lowest = max(group.floor, fine)
    return [present, *(n for n in range((present - 1) // fine * fine, lowest - 1, -fine))]


def _shapes(trace: Trace, group: Group, present: Mapping[str, int], counts: Sequence[int]) -> list[Shapes]:
    """Shapes of all tensors at each of the group's counts.

    Every dimension grows by a fixed amount per channel of one group, so two counts tell the others; a third proves it.
    """

    def exact(count: int) -> Shapes:
        return trace.resized_shapes(select(trace, {**present, group.name: count}, "first"))

    if len(counts) < 4:
        return [exact(count) for count in counts]
    first, last, middle = counts[0], counts[-1], counts[len(counts) // 2]
    high, low, proof = exact(first), exact(last), exact(middle)
    changing = [name for name in high if high[name] != low[name]]
    if any(_between(high[n], low[n], first, last, middle) != proof[n] for n in changing):
        return [exact(count) for count in counts]
    return [{**high, **{n: _between(high[n], low[n], first, last, count) for n in changing}} for count in counts]


def _between(high: tuple[int, ...], low: tuple[int, ...], first: int, last: int, count: int) -> tuple[int, ...]:
    return tuple(b + (a - b) * (count - last) // (first - last) for a, b in zip(high, low, strict=True))
