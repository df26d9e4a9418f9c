"""Channel counts near those of a cut that a device likes better, by a latency table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netadapt_onnx.profilers.table.best_counts import EQUAL, best_counts
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.trace import Trace


@dataclass(frozen=True)
class FasterCounts:
    """Channel counts by group, and their predicted latency in ms."""

    counts: Mapping[str, int]
    ms: float


def faster_counts(table: Table, trace: Trace, counts: Mapping[str, int], original_ms: float) -> FasterCounts | None:
    """Counts that keep more channels at no more time or, for a cut slower than the original, counts that are not.

    First each group goes up to the most channels that cost no time. While the cut is still slower than the original,
    the group whose next lower best count saves most goes down.

    Args:
        table: The latency table.
        trace: The model.
        counts: The channel counts of the groups that are cut.
        original_ms: The original's latency.

    Returns:
        The counts; None where none near by are better, or only the original is.
    """
    best = {name: best_counts(table, trace, name) for name in counts}

    def time(widths: Mapping[str, int]) -> float:
        return table.predict(trace.resized_shapes(select(trace, widths, "first")))

    chosen = dict(counts)
    now = time(chosen)
    for name in counts:
        for more in [n for n in best[name] if n > chosen[name]]:  # the largest first
            if time({**chosen, name: more}) <= now * (1 + EQUAL):
                chosen[name] = more
                now = min(now, time(chosen))
                break
    while now >= original_ms:
        lower = {name: next((n for n in best[name] if n < chosen[name]), None) for name in chosen}
        times = {name: time({**chosen, name: n}) for name, n in lower.items() if n is not None}
        fastest = min(times, key=lambda name: times[name], default=None)
        if fastest is None or times[fastest] >= now:
            break
        chosen[fastest] = lower[fastest] or chosen[fastest]
        now = times[fastest]
    is_cut = any(chosen[name] < trace.group(name).channels for name in chosen)  # else it is the original
    return FasterCounts(chosen, now) if is_cut and chosen != dict(counts) and now <= original_ms else None
