"""The widest network along a path of widths that a target allows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.power_law import Law
from netadapt_onnx.surgery.groups import Group

Widths = dict[str, int]
# Widths as a function of a network's size: no group gets narrower as the size grows.
WidthPath = Callable[[float], Widths]
# 60 halvings tell apart sizes that differ by 1e-18 of themselves: far less than what changes a truncated width.
HALVINGS = 60
DOUBLINGS = 40


@dataclass(frozen=True)
class AllowedWidths:
    """The widths that a group of `channels` channels may have: multiples of `multiple`, and at least `floor`."""

    channels: int
    multiple: int
    floor: int

    def at(self, width: float) -> int:
        """The largest allowed width that is not above `width`."""
        return max(self.floor, self.multiple * int(width / self.multiple))


def allowed_widths(groups: tuple[Group, ...], alignment: int = 1) -> dict[str, AllowedWidths]:
    """The allowed widths of each group.

    Args:
        groups: The groups whose widths may change.
        alignment: The multiple at which, by a latency table, kernels are efficient.
    """
    allowed = {}
    for group in groups:
        multiple = math.lcm(group.step, alignment)
        if multiple > group.channels:
            multiple = group.step
        allowed[group.name] = AllowedWidths(group.channels, multiple, max(group.floor, multiple))
    return allowed


@dataclass(frozen=True)
class WidthSearch:
    """Where the widths for a target are sought: along `path` from the size `start`, among the `allowed` widths."""

    path: WidthPath
    start: float
    allowed: Mapping[str, AllowedWidths]


def law_path(law: Law, allowed: Mapping[str, AllowedWidths]) -> WidthPath:
    """The path of widths that follow a law; groups without one keep their width."""

    def widths(tau: float) -> Widths:
        by_law = law.widths(tau)
        return {name: a.at(by_law[name]) if name in by_law else a.channels for name, a in allowed.items()}

    return widths


def uniform_path(base: Mapping[str, float], allowed: Mapping[str, AllowedWidths]) -> WidthPath:
    """The path on which the widths of all groups are those of `base` times one multiplier."""
    return lambda multiplier: {name: a.at(base[name] * multiplier) for name, a in allowed.items()}


def widest(path: WidthPath, cost: Callable[[Widths], float], limit: float, start: float, target: str) -> Widths:
    """The widths at the largest size whose cost is within `limit`, by bisection on the truncated widths.

    Args:
        path: The widths by size.
        cost: The cost of a network with these widths.
        limit: The largest cost that is allowed.
        start: The size to begin at.
        target: The target as the user wrote it, for messages.

    Raises:
        NetadaptError: Even the narrowest network costs more, or no network along the path costs as much.
    """
    low, high = start, start
    for _ in range(DOUBLINGS):
        if cost(path(low)) <= limit:
            break
        low /= 2
    else:
        least = cost(path(low))
        raise NetadaptError(
            f"target {target}: the narrowest network still costs {least:.6g}",
            hint="choose a larger target",
            code="target",
        )
    if low == start:
        for _ in range(DOUBLINGS):
            if cost(path(high)) > limit:
                break
            low, high = high, high * 2
        else:
            raise NetadaptError(
                f"target {target}: no network along the law costs as much",
                hint="choose a smaller target",
                code="target",
            )
    else:
        high = low * 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(path(middle)) <= limit else (low, middle)
    return path(low)


def nearest(
    widths: Widths, allowed: Mapping[str, AllowedWidths], cost: Callable[[Widths], float], goal: float, near: float
) -> Widths:
    """`widths` with groups moved by at most one allowed width up or down, so that the cost is nearest to `goal`.

    Widths at which kernels are efficient are far apart: along the path alone a network of few layers would miss a
    target by more than measurements can tell. Single groups are moved for as long as that helps; pairs of them if the
    cost is still further away than the share `near`.
    """

    def distance(moves: Mapping[str, int]) -> float:
        moved = {name: widths[name] + steps * allowed[name].multiple for name, steps in moves.items()}
        within = all(n == widths[name] or n >= allowed[name].floor for name, n in moved.items())
        return abs(cost(moved) / goal - 1) if within else math.inf

    best = dict.fromkeys(widths, 0)
    single = [{name: steps} for name in widths for steps in (1, 0, -1)]
    pairs = [{a: steps, b: -steps} for a, b in itertools.combinations(widths, 2) for steps in (1, -1)]
    for changes in (single, pairs):
        while distance(best) > (0 if changes is single else near):
            better = min(((distance(best | change), i) for i, change in enumerate(changes)), default=(math.inf, 0))
            if better[0] >= distance(best):
                break
            best |= changes[better[1]]
    return {name: widths[name] + steps * allowed[name].multiple for name, steps in best.items()}
