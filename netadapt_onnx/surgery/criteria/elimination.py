"""Structured optimal brain surgeon on matrices alone: in which order classes of tied channels go, and what that costs.

For a layer with inputs x, weights W (features x outputs) and H = E[x x^T], a class with the features i costs
tr(W_i^T ((H^-1)_ii)^-1 W_i): what the squared error of the layer's outputs grows by if these features go and all others
are solved anew. (Hassibi & Stork, NeurIPS 1993; Frantar & Alistarh, NeurIPS 2022; Kurtic et al., NeurIPS 2023.) The
cheapest class goes, W and H^-1 are updated by block elimination, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from netadapt_onnx.graph.axis_arrays import Array

# One class in so many goes at once: of fewer than twice as many, one at a time. All groups of EfficientNet-Lite0 take
# 5 s instead of 19; its errors at 0.9 to 0.25 of the channels are at most 0.5% higher.
SHARE_AT_ONCE = 64
# So many times the classes that go at once are looked at: among them one goes after the other, as costs then are.
CANDIDATES = 4


@dataclass(frozen=True)
class Elimination:
    """In which order the classes of tied channels of a group go, and the error of its consumers meanwhile.

    Attributes:
        class_of: The class of each channel, (channels,).
        order: The classes in the order in which they go, (classes,).
        errors: The error once the first n of them are gone, (classes + 1,), never falling: of each consumer the squared
            error of its outputs (all other inputs solved anew) relative to their size, summed over the consumers.
    """

    class_of: Array
    order: Array
    errors: np.ndarray

    @property
    def step(self) -> int:
        """How many channels a class has."""
        return len(self.class_of) // max(1, len(self.order))

    def error(self, channels: int) -> float:
        """The error when so many channels stay; between two multiples of the step, that of the lower one."""
        return float(self.errors[len(self.order) - channels // self.step])

    @cached_property
    def curve(self) -> np.ndarray:
        """The error once 0, 1, 2 ... channels are gone, (channels + 1,); part of a class counts as all of it."""
        gone = np.arange(len(self.class_of) + 1)
        errors: np.ndarray = self.errors[-(-gone // self.step)]
        return errors

    def kept(self, channels: int) -> Array:
        """Which channels stay if so many do, ascending."""
        return np.flatnonzero(np.isin(self.class_of, self.order[len(self.order) - channels // self.step :]))

    @cached_property
    def scores(self) -> np.ndarray:
        """A score for each class, (classes,), that rises in the order in which they go.

        It is what a class adds to the error, but never less than those that went before it.
        """
        rising = np.maximum.accumulate(np.diff(self.errors))
        apart = 1e-9 * (float(rising[-1]) or 1.0) * np.arange(1, len(rising) + 1)
        scores = np.zeros(len(self.order))
        scores[self.order] = rising + apart
        return scores


class System:
    """What remains of one consumer's (or one of its conv groups') features: H^-1 and W, updated as classes go.

    Each class has the same number of features, one behind the other. A class that has gone is moved behind those that
    stay, so that what remains is always the front of the same arrays.
    """

    def __init__(self, classes: Array, inverse: np.ndarray, weights: np.ndarray) -> None:
        """Take the arrays over.

        Args:
            classes: The classes that have features here, (classes,).
            inverse: H^-1, (classes * features, classes * features).
            weights: W, (classes * features, outputs), scaled so that costs are what they are wanted to be.
        """
        self._classes = classes.copy()
        self._size = len(inverse) // len(classes)
        self._place = {number: k for k, number in enumerate(classes.tolist())}
        self._inverse, self._weights = inverse, weights
        self._costs = self._computed_costs()

    @property
    def classes(self) -> Array:
        """The classes that remain."""
        return self._classes[: len(self._costs)]

    @property
    def costs(self) -> np.ndarray:
        """What each of them costs, (classes,)."""
        return self._costs

    def remove(self, classes: Sequence[int]) -> None:
        """Remove classes together; those that have no features here change nothing."""
        gone = [number for number in classes if number in self._place]
        if not gone:
            return
        remaining = len(self._costs)
        for number in gone:
            remaining -= 1
            self._swap(self._place.pop(number), remaining)
        front = remaining * self._size
        end = front + len(gone) * self._size
        coupling = self._inverse[front:end, :front]
        right = np.hstack([coupling, self._weights[front:end]])
        solved = np.linalg.solve(self._inverse[front:end, front:end], right)
        self._inverse[:front, :front] -= coupling.T @ solved[:, :front]
        self._weights[:front] -= coupling.T @ solved[:, front:]
        self._costs = self._computed_costs()

    def only(self, classes: Array) -> System | None:
        """The system of some classes, the others staying as they are; None if none of them has features here."""
        ours = np.flatnonzero(np.isin(self.classes, classes))
        if not len(ours):
            return None
        rows = (ours[:, None] * self._size + np.arange(self._size)).reshape(-1)
        return System(self._classes[ours], self._inverse[np.ix_(rows, rows)], self._weights[rows])

    def _swap(self, a: int, b: int) -> None:
        if a == b:
            return
        first, second = (slice(k * self._size, (k + 1) * self._size) for k in (a, b))
        for rows in (self._inverse, self._inverse.T, self._weights):
            rows[first], rows[second] = rows[second].copy(), rows[first].copy()
        self._classes[[a, b]] = self._classes[[b, a]]
        self._place[int(self._classes[a])] = a

    def _computed_costs(self) -> np.ndarray:
        remaining, size = len(self._place), self._size
        weights = self._weights[: remaining * size]
        if size == 1:
            costs = np.einsum("ij,ij->i", weights, weights) / np.diagonal(self._inverse)[:remaining]
        else:
            front = self._inverse[: remaining * size, : remaining * size].reshape(remaining, size, remaining, size)
            blocks = front[np.arange(remaining), :, np.arange(remaining), :]
            by_class = weights.reshape(remaining, size, weights.shape[1])
            products = by_class @ by_class.transpose(0, 2, 1)
            costs = np.trace(np.linalg.solve(blocks, products), axis1=1, axis2=2)
        return np.asarray(np.maximum(costs, 0.0))


def eliminate(systems: Sequence[System], classes: int) -> tuple[Array, np.ndarray]:
    """Let all classes of a group go, the cheapest first; the systems are used up.

    Args:
        systems: One for each consumer and conv group; every class has features in one of them.
        classes: How many classes there are.

    Returns:
        The classes in their order, (classes,), and what each adds to the error, (classes,).
    """
    present = np.ones(classes, bool)
    order: list[int] = []
    added: list[float] = []
    while present.any():
        at_once = max(1, int(present.sum()) // SHARE_AT_ONCE)
        if at_once == 1:
            gone, costs = _one_by_one(systems, present, 1)
        else:
            totals = _totals(systems, present)
            nearest = np.argsort(totals, kind="stable")[: CANDIDATES * at_once]
            among = np.zeros(classes, bool)
            among[nearest] = True
            parts = [part for system in systems if (part := system.only(nearest)) is not None]
            gone, costs = _one_by_one(parts, among, at_once)
            for system in systems:
                system.remove(gone)
        present[gone] = False
        order += gone
        added += costs
    return np.array(order, np.int64), np.array(added)


def _one_by_one(systems: Sequence[System], present: NDArray[np.bool_], count: int) -> tuple[list[int], list[float]]:
    """Remove the cheapest of the classes that are present, so many times; those classes, and what each of them cost."""
    present = present.copy()
    gone: list[int] = []
    costs: list[float] = []
    for _ in range(count):
        totals = _totals(systems, present)
        cheapest = int(np.argmin(totals))
        for system in systems:
            system.remove([cheapest])
        present[cheapest] = False
        gone.append(cheapest)
        costs.append(float(totals[cheapest]))
    return gone, costs


def _totals(systems: Sequence[System], present: NDArray[np.bool_]) -> np.ndarray:
    """What each class costs in all systems together, (classes,); infinity for those that are gone."""
    totals = np.where(present, 0.0, np.inf)
    for system in systems:
        totals[system.classes] += system.costs
    return totals
