"""The widest network along a path of widths that a target allows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.law import Law
from netadapt_onnx.surgery.groups import Group

Widths = dict[str, int]
# Widths of a network of a given size; larger sizes are nowhere narrower.
Path = Callable[[float], Widths]
# 60 halvings tell apart sizes that differ by 1e-18 of themselves: far less than what changes a truncated width.
HALVINGS = 60
DOUBLINGS = 40


@dataclass(frozen=True)
class AllowedWidths:
    """The widths that a group may have: multiples of `multiple`, and at least `floor`."""

    channels: int
    multiple: int
    floor: int

    def at(self, width: float) -> int:
        """The widest allowed width that is not above `width`."""
        return max(self.floor, self.multiple * int(width / self.multiple))


def allowed_widths(groups: tuple[Group, ...], alignment: int = 1) -> dict[str, AllowedWidths]:
    """Per group; `alignment` is what a latency table says widths should be multiples of."""
    found = {}
    for group in groups:
        multiple = math.lcm(group.step, alignment)
        if multiple > group.channels:
            multiple = group.step
        found[group.name] = AllowedWidths(group.channels, multiple, max(group.floor, multiple))
    return found


def along(law: Law, allowed: Mapping[str, AllowedWidths]) -> Path:
    """The path of a law; groups that follow none keep their width."""

    def widths(tau: float) -> Widths:
        found = law.widths(tau)
        return {name: r.at(found[name]) if name in found else r.channels for name, r in allowed.items()}

    return widths


def uniform(base: Mapping[str, float], allowed: Mapping[str, AllowedWidths]) -> Path:
    """All groups times one multiplier, from `base`."""
    return lambda multiplier: {name: r.at(base[name] * multiplier) for name, r in allowed.items()}


def widest(path: Path, cost: Callable[[Widths], float], limit: float, start: float, said: str) -> Widths:
    """The widths at the largest size whose cost is within `limit`, by bisection on the truncated widths.

    `start` is a size to begin at, `said` the target for messages. Raises NetadaptError if even the narrowest network
    costs more, or none that could be held in memory costs as much.
    """
    low, high = start, start
    for _ in range(DOUBLINGS):
        if cost(path(low)) <= limit:
            break
        low /= 2
    else:
        least = cost(path(low))
        raise NetadaptError(
            f"target {said}: the narrowest network still costs {least:.6g}", hint="ask for more", code="target"
        )
    if low == start:
        for _ in range(DOUBLINGS):
            if cost(path(high)) > limit:
                break
            low, high = high, high * 2
        else:
            raise NetadaptError(f"target {said}: no network along the law costs as much", code="target")
    else:
        high = low * 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(path(middle)) <= limit else (low, middle)
    return path(low)


def nearest(
    widths: Widths, allowed: Mapping[str, AllowedWidths], cost: Callable[[Widths], float], aim: float, near: float
) -> Widths:
    """`widths` with groups moved by at most a rung up or down, so that the cost is nearest to `aim`.

    Rungs of a latency table are far apart: along the path alone a network of few layers would miss a target by more
    than measurements can tell. Single groups are moved for as long as that helps; pairs of them if the cost is still
    more than the share `near` off.
    """

    def missed(moves: Mapping[str, int]) -> float:
        moved = {name: widths[name] + by * allowed[name].multiple for name, by in moves.items()}
        within = all(n == widths[name] or n >= allowed[name].floor for name, n in moved.items())
        return abs(cost(moved) / aim - 1) if within else math.inf

    best = dict.fromkeys(widths, 0)
    single = [{name: by} for name in widths for by in (1, 0, -1)]
    pairs = [{a: by, b: -by} for a, b in itertools.combinations(widths, 2) for by in (1, -1)]
    for changes in (single, pairs):
        while missed(best) > (0 if changes is single else near):
            better = min(((missed(best | change), i) for i, change in enumerate(changes)), default=(math.inf, 0))
            if better[0] >= missed(best):
                break
            best |= changes[better[1]]
    return {name: widths[name] + by * allowed[name].multiple for name, by in best.items()}
