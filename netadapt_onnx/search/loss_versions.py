"""Versions of the losses that error curves give: powers of them, and draws around the best (SPDY's way).

Errors of several groups do not simply add up: neighbours make up for each other, or need one another. So several
versions of the losses choose widths, which are solved and evaluated (Frantar & Alistarh, ICML 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from netadapt_onnx.search.joint_iteration import best_first
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.proposals import TOGETHER
from netadapt_onnx.search.width_program import Losses

# Losses to these powers are tried: below 1 they spare many groups at the cost of a few, above 1 they spread the cut.
POWERS = (1.0, 0.5, 2.0)
# Then losses are drawn around those of the best widths so far, each times e^N(0, sigma), so many at a time. Sigma is
# halved after a round without a better one. The share of an EfficientNet-Lite0's outputs that is explained rose from
# 0.779 to 0.804 in 6 draws at 0.2 and to 0.809 in 6 at 0.1, not in 6 at 0.3 nor in 28 at 0.5 of other runs. On small
# networks 0.2 finds what 0.5 does with half of the models: many draws lead to widths that were had already.
ROUND, SIGMA = 4, 0.2
# Another competition for the same target begins with so many of the best versions of the one before.
MOST_CARRIED = 3

# By the name of a version, the accuracy of its widths; None where they failed. A version is left out whose widths
# another one has chosen before.
Accuracies = Mapping[str, float | None]
# Evaluates the widths that versions choose, by their names.
Evaluate = Callable[[Sequence[str]], Accuracies]


class LossVersions:
    """The versions of the losses: those that a competition begins with, then rounds of draws around the best."""

    def __init__(self, losses: Losses) -> None:
        """Begin with powers of the losses.

        Args:
            losses: By group, what the outputs lose when 0, 1, 2 ... of its channels are gone.
        """
        self._losses = {_power(p): {name: loss**p for name, loss in losses.items()} for p in POWERS}
        self._first = tuple(self._losses)
        self._drawn, self._sigma, self._center = 0, SIGMA, ""

    def __getitem__(self, name: str) -> Losses:
        """The losses of a version."""
        return self._losses[name]

    def compete(self, draws: int, evaluate: Evaluate) -> None:
        """Evaluate the first versions, then rounds of draws around the best; the best ones are the next to be first."""
        accuracies = dict(evaluate(self._first))
        for drawn in range(0, draws, ROUND):
            accuracies |= evaluate(self._draw(accuracies, min(ROUND, draws - drawn)))
        self._first = tuple(_best_first(accuracies)[:MOST_CARRIED]) or self._first

    def _draw(self, accuracies: Accuracies, count: int) -> list[str]:
        """The names of a round of draws around the best version so far; none if all have failed."""
        best = next(iter(_best_first(accuracies)), None)
        if best is None:
            return []
        self._sigma = self._sigma / 2 if best == self._center else self._sigma
        self._center = best
        names = []
        for _ in range(count):
            rng = np.random.default_rng(self._drawn)
            self._drawn += 1
            names.append(f"curves, draw {self._drawn}")
            around = self._losses[best].items()
            self._losses[names[-1]] = {group: loss * math.exp(self._sigma * rng.normal()) for group, loss in around}
        return names


def versions_after(losses: Losses, steps: Sequence[Step], draws: int) -> tuple[LossVersions, int]:
    """The versions that compete next for a target, and how many are to be drawn.

    Another competition begins with what the one before has found out, with half of its draws. That is done again from
    the history, which says what was evaluated, so that a resumed run draws the same.

    Args:
        losses: By group, what the outputs lose when 0, 1, 2 ... of its channels are gone.
        steps: The steps that were accepted for the target.
        draws: How many are drawn in the first competition.
    """
    versions = LossVersions(losses)
    for step in steps:
        if step.group == TOGETHER and step.tried:
            versions.compete(draws, partial(_recorded, {entry.group: entry.accuracy for entry in step.tried}))
            draws //= 2
    return versions, draws


def _power(power: float) -> str:
    return "curves" if power == 1.0 else f"curves^{power:g}"


def _recorded(tried: Accuracies, names: Sequence[str]) -> dict[str, float | None]:
    return {name: tried[name] for name in names if name in tried}


def _best_first(accuracies: Accuracies) -> list[str]:
    """The names of the versions that did not fail, the best first; ties go to the earlier one."""
    names = list(accuracies)
    return [names[number] for number in best_first(dict(enumerate(accuracies.values())))]
