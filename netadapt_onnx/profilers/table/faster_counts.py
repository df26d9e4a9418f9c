"""Channel counts near those of a cut at which a device is faster, by a latency table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netadapt_onnx.profilers.table.best_counts import EQUAL
from netadapt_onnx.profilers.table.file import Shapes
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.trace import Trace

# Once a cut is clearly faster than the original, channels go back only where that saves this share of the time.
WORTH_GIVING_BACK = 0.01


@dataclass(frozen=True)
class FasterCounts:
    """Channel counts by group, and their predicted latency in ms."""

    counts: Mapping[str, int]
    ms: float


@dataclass(frozen=True)
class _Prediction:
    """The predicted latency of channel counts, and what 95% of such predictions are below."""

    counts: Mapping[str, int]
    ms: float
    upper_ms: float


def faster_counts(
    table: Table,
    trace: Trace,
    counts: Mapping[str, int],
    original_ms: float,
    *,
    floors: Mapping[str, int] | None = None,
    step: int | None = None,
) -> FasterCounts | None:
    """The counts nearest to those of a cut that are clearly faster than both the cut and the original.

    Clearly faster: slower by the error that 95% of the table's predictions stay within, they would still be faster.
    From the cut's counts on, one group after the other goes to a count near by, up or down: the one that saves most for
    how far that leads away from the cut. Once that is clearly faster than the original, as many cuts are from the
    beginning, no further channels are removed; groups only go up to counts that are faster.

    Args:
        table: The latency table.
        trace: The model.
        counts: The channel counts of the groups that are cut.
        original_ms: The original's latency.
        floors: Counts that groups must not go below, besides their own floors.
        step: Counts are multiples of this, too.

    Returns:
        The counts; None where none near by are clearly faster, or only the original is.
    """
    search = _Search(table, trace, counts, original_ms, floors or {}, step or 1)
    chosen = cut = search.predict(counts)
    while (faster := search.next(chosen)) is not None:
        chosen = faster
    return FasterCounts(chosen.counts, chosen.ms) if chosen.upper_ms < min(original_ms, cut.ms) else None


@dataclass(frozen=True)
class _Search:
    """The arguments of `faster_counts`, and its steps."""

    table: Table
    trace: Trace
    requested: Mapping[str, int]
    original_ms: float
    floors: Mapping[str, int]
    step: int

    def next(self, now: _Prediction) -> _Prediction | None:
        """The change that saves most for how far it leads away from the requested counts; None where none saves.

        More than it takes to be clearly faster than the original does not count. A change must also lower what the
        latency is below: what saves a little and is uncertain does not help.
        """
        is_clear = now.upper_ms < self.original_ms
        needed_ms = math.inf if is_clear else now.upper_ms - self.original_ms
        least_ms = now.ms * (WORTH_GIVING_BACK if is_clear else EQUAL)
        worth: list[tuple[float, Mapping[str, int]]] = []
        for counts in self._changes(now.counts, only_more=is_clear):
            saved_ms = now.ms - self.table.predict(self._shapes(counts))
            if saved_ms > least_ms:
                further = self._distance(counts) - self._distance(now.counts)
                worth.append((min(saved_ms, needed_ms) / further if further > 0 else math.inf, counts))
        for _, counts in sorted(worth, key=lambda one: -one[0]):
            changed = self.predict(counts)
            if changed.upper_ms < now.upper_ms:
                return changed
        return None

    def predict(self, counts: Mapping[str, int]) -> _Prediction:
        ms, error = self.table.predict_with_error(self._shapes(counts))
        return _Prediction(counts, ms, ms * (1 + error))

    def _shapes(self, counts: Mapping[str, int]) -> Shapes:
        return self.trace.resized_shapes(select(self.trace, counts, "first"))

    def _distance(self, counts: Mapping[str, int]) -> float:
        """How far counts are from the requested ones: each group's changed channels times the share of it they are.

        So a change of many channels in a group counts for more than the same in several, and in a narrow group for
        more than in a wide one.
        """
        changed = {name: counts[name] - count for name, count in self.requested.items()}
        return sum(n**2 / self.trace.group(name).channels for name, n in changed.items())

    def _changes(self, counts: Mapping[str, int], *, only_more: bool) -> list[Mapping[str, int]]:
        """The counts with one group at a count near by, and with all of them rounded: some kernels mind only that."""
        staircase, changes = self.table.staircase, list[Mapping[str, int]]()
        for multiple in dict.fromkeys((staircase.alignment, math.lcm(staircase.alignment, staircase.block))):
            near = {name: self._near(self.trace.group(name), n, multiple) for name, n in counts.items()}
            changes += [{name: n} for name, ends in near.items() for n in ends]
            off = [name for name, n in counts.items() if n % multiple and near[name]]
            changes += [{name: choose(near[name]) for name in off} for choose in (max, min)]
        changed = [{**counts, **change} for change in changes if change]
        return [
            one
            for one in changed
            if any(n < self.trace.group(name).channels for name, n in one.items())  # else it is the original
            and not (only_more and any(n < counts[name] for name, n in one.items()))
        ]

    def _near(self, group: Group, count: int, multiple: int) -> Sequence[int]:
        """The next multiples below and above a count that a group can have; all of its channels are one, too."""
        multiple = math.lcm(multiple, group.step, self.step)
        below, above = (count - 1) // multiple * multiple, min((count // multiple + 1) * multiple, group.channels)
        lowest = max(group.floor, self.floors.get(group.name, 0), 1)
        return [n for n in (below, above) if n >= lowest and n != count]
