"""From measured cells to a function of widths: a non-negative staircase per kind of unit.

Latency is flat in steps of the kernels' channel block, and widths that miss an alignment run another, slower kernel.
Both numbers differ between CPUs; they are chosen here, from the cells, and not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

BLOCKS = (1, 4, 8, 16, 32)
ALIGNMENTS = (1, 2, 4, 8)
# Kernels compute up to this many blocks of output channels in one pass over the input.
PASS = 4
# A class of widths with fewer cells than this borrows the common curve.
FEWEST = 8


@dataclass(frozen=True)
class Stairs:
    """Channels per `block`, and the `alignment` that a width must have to run the fast kernel."""

    block: int
    alignment: int

    def features(self, widths: Ints) -> Floats:
        """(n, k) widths -> (n, f) terms that a unit's time is a non-negative sum of."""
        w = widths.astype(np.float64)
        b = np.ceil(w / self.block)
        one = np.ones(len(w))
        if w.shape[1] == 0:
            return one[:, None]
        if w.shape[1] == 1:
            x, y = w[:, 0], b[:, 0]
            q = np.ceil(y / PASS)
            return np.stack([one, x, y, q, x * y, y * y, x * q, y * q], 1)
        if w.shape[1] == 2:
            x, X, y = w[:, 0], b[:, 0], b[:, 1]
            q = np.ceil(y / PASS)
            return np.stack([one, x, X, y, q, x * y, X * y, x * q, X * q], 1)
        last = w[:, -2] * b[:, -1]
        return np.concatenate([one[:, None], w, b, last[:, None]], 1)

    def classes(self, widths: Ints) -> Ints:
        """(n, k) widths -> (n,): for each width whether it is regular, narrower than a block, or not aligned."""
        kinds = np.where(widths % self.alignment != 0, 2, np.where(widths < self.block, 1, 0))
        code: Ints = (kinds * 3 ** np.arange(widths.shape[1])).sum(1)
        return code

    def aligned(self, widths: Ints) -> Ints:
        """Widths raised to the next multiple of the alignment."""
        return -(-widths // self.alignment) * self.alignment


@dataclass(frozen=True)
class Curve:
    """Time (microseconds) of one kind of unit over its widths.

    `common` fits all aligned widths; `own` are the classes with cells enough for terms of their own; `near` those with
    a few cells, as an offset, a multiple of `common`, and a price per product of widths.
    """

    stairs: Stairs
    common: Floats
    own: dict[int, Floats]
    near: dict[int, Floats]

    def __call__(self, widths: Ints) -> Floats:
        """(n, k) widths -> (n,) microseconds. A class without any cell costs what the next aligned widths cost."""
        classes = self.stairs.classes(widths)
        terms = self.stairs.features(widths)
        result: Floats = self.stairs.features(self.stairs.aligned(widths)) @ self.common
        for code in np.unique(classes):
            chosen = classes == code
            if int(code) in self.own:
                result[chosen] = terms[chosen] @ self.own[int(code)]
            elif int(code) in self.near:
                result[chosen] = _few_terms(result[chosen], widths[chosen]) @ self.near[int(code)]
        return result


def fit_curve(widths: Ints, us: Floats, stairs: Stairs) -> Curve:
    """Least squares in relative error with coefficients >= 0, class by class where there are cells enough."""
    terms = stairs.features(widths)
    classes = stairs.classes(widths)
    usual = (widths % stairs.alignment == 0).all(1)
    if usual.sum() < FEWEST:
        usual[:] = True
    common = _relative_fit(terms[usual], us[usual])
    base = stairs.features(stairs.aligned(widths)) @ common
    own: dict[int, Floats] = {}
    near: dict[int, Floats] = {}
    for code in np.unique(classes):
        chosen = classes == code
        if chosen.sum() >= FEWEST:
            own[int(code)] = _relative_fit(terms[chosen], us[chosen])
        else:
            near[int(code)] = _relative_fit(_few_terms(base[chosen], widths[chosen]), us[chosen])
    return Curve(stairs, common, own, near)


def _few_terms(base: Floats, widths: Ints) -> Floats:
    return np.stack([np.ones(len(base)), base, widths.prod(1).astype(np.float64)], 1)


def choose_stairs(pools: Sequence[tuple[Ints, Floats]], cells: int = 60) -> Stairs:
    """The block and alignment under which all kinds together fit best, in microseconds off: large units count most."""
    pools = [_thinned(widths, us, cells) for widths, us in pools if widths.shape[1]]

    def loss(stairs: Stairs) -> float:
        return sum(float(np.abs(fit_curve(w, us, stairs)(w) - us).sum()) for w, us in pools)

    return min((Stairs(block, alignment) for block in BLOCKS for alignment in ALIGNMENTS), key=loss)


def _thinned(widths: Ints, us: Floats, cells: int) -> tuple[Ints, Floats]:
    stride = max(1, len(us) // cells)
    return widths[::stride], us[::stride]


def _relative_fit(terms: Floats, us: Floats) -> Floats:
    weight = 1.0 / np.maximum(us, 0.2 * us.max() + 0.5)
    scale = np.abs(terms).max(0)
    scale[scale == 0] = 1.0
    found: Floats = nonnegative(terms / scale * weight[:, None], us * weight) / scale
    return found


def robust_nonnegative(terms: Floats, target: Floats, weight: Floats | None = None) -> Floats:
    """`nonnegative` in relative error, in which versions that are far off count by their distance, not its square.

    Huber's weights (1964), reweighted; the scale is the median error.
    """
    relative = (np.ones_like(target) if weight is None else weight) / target
    trust: Floats = np.ones_like(target)
    scale = np.abs(terms).max(0)
    scale[scale == 0] = 1.0
    found: Floats = np.zeros(terms.shape[1])
    for _ in range(10):
        w = np.sqrt(trust) * relative
        found = nonnegative(terms / scale * w[:, None], target * w) / scale
        errors = np.abs(terms @ found / target - 1)
        trust = np.minimum(1.0, 1.5 * max(1e-6, float(np.median(errors))) / np.maximum(errors, 1e-12))
    return found


def nonnegative(a: Floats, y: Floats) -> Floats:
    """argmin |a x - y| over x >= 0 (Lawson and Hanson 1974, chapter 23), for a few columns."""
    gram, target = a.T @ a, a.T @ y
    n = len(target)
    tolerance = 1e-10 * max(1e-30, float(np.abs(target).max()))
    gram = gram + np.eye(n) * 1e-9 * max(1e-30, float(np.trace(gram)) / n)  # columns may coincide
    x: Floats = np.zeros(n)
    free = np.zeros(n, bool)
    for _ in range(3 * n):
        gradient = target - gram @ x
        gradient[free] = -np.inf
        if free.all() or gradient.max() <= tolerance:
            break
        free[int(np.argmax(gradient))] = True
        while True:
            trial: Floats = np.zeros(n)
            trial[free] = np.linalg.solve(gram[np.ix_(free, free)], target[free])
            if (trial[free] > 0).all():
                x = trial
                break
            blocking = free & (trial <= 0)
            steps = x[blocking] / np.maximum(x[blocking] - trial[blocking], 1e-300)
            x = x + float(steps.min()) * (trial - x)
            free &= x > 1e-15
            x[~free] = 0.0
            if not free.any():
                break
    return x
