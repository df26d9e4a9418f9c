"""From measured cells to a function of widths: a non-negative staircase per kind of unit.

Latency is flat in steps of the kernels' channel block, and widths that miss an alignment run another, slower kernel.
Both numbers differ between CPUs; they are chosen here, from the cells, and not assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Bools = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

BLOCKS = (1, 4, 8, 16, 32)
ALIGNMENTS = (1, 2, 4, 8)
# Kernels compute up to this many blocks of output channels in one pass over the input.
PASS = 4
# How often the weights of a robust fit of cells are revised: sessions that were disturbed are a tenth of all.
ROBUST = 4
# Alignments are equally good if they leave no more than this share of the time unexplained beyond the best.
UNEXPLAINED = 0.002
# A class of widths with fewer cells than this borrows the common curve.
FEWEST = 12
# Parts of the cells that take turns in being left out.
FOLDS = 4
# So many cells of a kind of unit choose blocks. Of 60, in versions of all kinds, too few were of any class: one table
# of four saw blocks of 4 channels in place of 16, and was off by 8% instead of 2%.
MOST_CELLS = 240
# Every bit of a class.
ALL = -1


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

    def classes(self, widths: Ints, discriminating_bits: int = ALL) -> Ints:
        """(n, k) widths -> (n,): for each width whether it is narrower than a block, and whether it is not aligned.

        `discriminating_bits`: which of these 2k bits make a difference.
        """
        kinds = 2 * (widths % self.alignment != 0) + (widths < self.block)
        code: Ints = (kinds * 4 ** np.arange(widths.shape[1])).sum(1)
        return code & discriminating_bits

    def aligned(self, widths: Ints) -> Ints:
        """Widths raised to the next multiple of the alignment."""
        return -(-widths // self.alignment) * self.alignment


@dataclass(frozen=True)
class Traits:
    """What is true of a kernel in all kinds of unit that it runs in.

    `block`: its channel block. `discriminating_bits`: the bits of classes that make a difference to it. `runs`: by
    class of widths how often it ran.
    """

    block: int
    discriminating_bits: int = ALL
    runs: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelCurve:
    """Time (microseconds) of one kernel of a kind of unit over the unit's widths, times the share in which it runs.

    A class of widths that has no cell runs what the likest classes run, and takes as long as the slowest of them: what
    slows a kernel down that reads so, or that writes so, slows one down that does both.

    `stairs` tell classes of widths, `steps` the terms: each kernel has a channel block of its own. `common` fits the
    regular widths; `own` are the classes with cells enough for terms of their own; `near` those with a few cells, as an
    offset, a multiple of `common`, and a price per product of widths. `shares`: by class, how often the kernel ran.
    """

    stairs: Stairs
    steps: Stairs
    common: Floats
    own: dict[int, Floats]
    near: dict[int, Floats]
    shares: dict[int, float]
    traits: Traits

    def __call__(self, widths: Ints) -> Floats:
        """(n, k) widths -> (n,) microseconds. A class without any cell costs what the next aligned widths cost."""
        classes = self.stairs.classes(widths, self.traits.discriminating_bits)
        unseen = ~np.isin(classes, list(self.shares))
        widths = np.where(unseen[:, None], self.stairs.aligned(widths), widths)
        result: Floats = np.zeros(len(widths))
        for found in np.unique(classes):
            chosen = classes == found
            codes = [int(found)] if int(found) in self.shares else self._likest(int(found), widths.shape[1])
            if share := self.shares[codes[0]]:
                result[chosen] = share * np.max([self._time(c, widths[chosen]) for c in codes if self.shares[c]], 0)
        return result

    def _time(self, code: int, widths: Ints) -> Floats:
        """(n, k) widths -> (n,) microseconds of the kernel when it runs, of a class that has cells."""
        if code in self.own:
            return self.steps.features(widths) @ self.own[code]
        base: Floats = self.steps.features(self.stairs.aligned(widths)) @ self.common
        return _few_terms(base, widths) @ self.near[code] if code in self.near else base

    def _likest(self, code: int, widths: int) -> list[int]:
        """The classes with cells in which the kernel runs or not as it does elsewhere, of these the likest.

        The commonest is named first.
        """
        kinds, runs = _kinds(code, widths), self.traits.runs

        def unlike(other: int) -> tuple[bool, int]:
            differs = code in runs and (runs[code] >= 0.5) != (self.shares[other] >= 0.5)
            return differs, sum(a != b for a, b in zip(kinds, _kinds(other, widths), strict=True))

        least = min(map(unlike, self.shares))
        return [other for other in self.shares if unlike(other) == least]


def _kinds(code: int, widths: int) -> list[int]:
    return [code // 2**k % 2 for k in range(2 * widths)]


@dataclass(frozen=True)
class Curve:
    """Time (microseconds) of one kind of unit over its widths: the sum of its kernels'.

    Which kernels run depends on the widths: layout changes come and go, and fast kernels do not take all widths.
    `spread`: the relative error that 95% of its cells stay within.
    """

    stairs: Stairs
    kernels: tuple[KernelCurve, ...]
    spread: float

    def __call__(self, widths: Ints) -> Floats:
        """(n, k) widths -> (n,) microseconds."""
        total: Floats = np.sum([kernel(widths) for kernel in self.kernels], 0)
        return total


def fit_curve(
    widths: Ints,
    us: Mapping[str, Floats],
    stairs: Stairs,
    traits: Mapping[str, Traits] | None = None,
    *,
    rounds: int = ROBUST,
) -> Curve:
    """Fit a kind of unit to its cells. `us`: by kernel the times of all rows, NaN where it did not run.

    `traits` of its kernels; without, their block is that of `stairs`. `rounds`: how often outliers are reweighted.
    """
    unknown = Traits(stairs.block)
    kernels = tuple(
        _fit_kernel(widths, times, stairs, (traits or {}).get(name, unknown), rounds) for name, times in us.items()
    )
    curve = Curve(stairs, kernels, 0.0)
    totals = np.nansum(list(us.values()), 0)
    off = np.abs(curve(widths) - totals) / np.maximum(totals, 0.2 * totals.max() + 0.5)
    return replace(curve, spread=float(np.quantile(off, 0.95)))


def _fit_kernel(widths: Ints, times: Floats, stairs: Stairs, traits: Traits, rounds: int = 1) -> KernelCurve:
    """Least squares in relative error with coefficients >= 0, class by class where there are cells enough."""
    steps = Stairs(traits.block, stairs.alignment)
    classes = stairs.classes(widths, traits.discriminating_bits)
    ran = ~np.isnan(times)
    codes, counts = np.unique(classes, return_counts=True)
    shares = {int(c): float(ran[classes == c].mean()) for c in codes[np.argsort(-counts)]}
    rows, us, classes = widths[ran], times[ran], classes[ran]
    terms = steps.features(rows)
    usual = classes == 0
    apart = bool(usual.sum() >= FEWEST)  # else this kernel is not that of regular widths, and all its cells are alike
    if not apart:
        usual[:] = True
    common = _relative_fit(terms[usual], us[usual], rounds)
    base = steps.features(stairs.aligned(rows)) @ common
    own: dict[int, Floats] = {}
    near: dict[int, Floats] = {}
    for code in np.unique(classes):
        chosen = classes == code
        if chosen.sum() >= (FEWEST if apart else 2 * FEWEST):
            own[int(code)] = _relative_fit(terms[chosen], us[chosen], rounds)
        elif apart:
            few = _few_terms(base[chosen], rows[chosen])
            few[:, max(1, chosen.sum() // 2) :] = 0.0  # two cells tell a factor, not an offset or a slope
            near[int(code)] = _relative_fit(few, us[chosen], rounds)
    return KernelCurve(stairs, steps, common, own, near, shares, traits)


def _few_terms(base: Floats, widths: Ints) -> Floats:
    """What a class with a few cells is fitted with, in the order in which cells allow them."""
    return np.stack([base, widths.prod(1).astype(np.float64), np.ones(len(base))], 1)


def choose_stairs(pools: Sequence[tuple[Ints, Mapping[str, Floats]]], cells: int = MOST_CELLS) -> Stairs:
    """The block and alignment that explain best which kernels run (microseconds at stake), then how long they take.

    `pools`: of each kind of unit the widths, and by kernel the times (NaN: did not run).
    """
    pools = [(widths, us) for widths, us in pools if widths.shape[1]]
    unexplained = {a: sum(_unexplained(w, us, Stairs(1, a)) for w, us in pools) for a in ALIGNMENTS}
    at_stake = sum(float(np.nansum(times)) for _, us in pools for times in us.values())
    alignments = [a for a in ALIGNMENTS if unexplained[a] <= min(unexplained.values()) + UNEXPLAINED * at_stake]
    thinned = [_thinned(widths, np.nansum(list(us.values()), 0), cells) for widths, us in pools]

    def loss(stairs: Stairs) -> float:
        return sum(float(np.abs(fit_curve(w, {"": us}, stairs, rounds=1)(w) - us).sum()) for w, us in thinned)

    return min((Stairs(block, alignment) for block in BLOCKS for alignment in alignments), key=loss)


def _unexplained(widths: Ints, us: Mapping[str, Floats], stairs: Stairs) -> float:
    """Microseconds of kernels that run in some rows of a class of widths and not in others."""
    classes = stairs.classes(widths)
    total = 0.0
    for times in us.values():
        for code in np.unique(classes):
            rows = times[classes == code]
            total += float(np.isnan(rows).mean() * np.nansum(rows))
    return total


def choose_block(pools: Sequence[tuple[Ints, Floats]], stairs: Stairs, cells: int = MOST_CELLS) -> int:
    """The block under which one kernel fits best in all kinds of unit; `pools`: widths and times (NaN: did not run)."""
    pools = [_thinned(widths[~np.isnan(us)], us[~np.isnan(us)], cells) for widths, us in pools if widths.shape[1]]

    def loss(block: int) -> float:
        traits = Traits(block)
        return sum(float(np.abs(_fit_kernel(w, us, stairs, traits)(w) - us).sum()) for w, us in pools)

    return min((stairs.block, *BLOCKS), key=loss)


def choose_traits(pools: Sequence[tuple[Ints, Floats]], stairs: Stairs, block: int) -> Traits:
    """What the kinds of unit with the same number of widths have in common about a kernel of this block.

    `pools`: widths (n, k), of the same k, and times (NaN: did not run).
    """
    discriminating_bits = _discriminating_bits(pools, stairs, block)
    classes = np.concatenate([stairs.classes(widths, discriminating_bits) for widths, _ in pools])
    ran = np.concatenate([~np.isnan(us) for _, us in pools])
    return Traits(block, discriminating_bits, {int(c): float(ran[classes == c].mean()) for c in np.unique(classes)})


def _discriminating_bits(pools: Sequence[tuple[Ints, Floats]], stairs: Stairs, block: int) -> int:
    """The bits of classes that make a difference to one kernel, as cells tell that were left out of the fit.

    A bit without which the others are predicted as
    well would only part cells that belong together. The last width, the result's, is tried first: it matters least.
    """

    def loss(discriminating_bits: int) -> float:
        traits = Traits(block, discriminating_bits)
        total = 0.0
        for widths, us in pools:
            for fold in range(FOLDS):
                out = np.arange(len(us)) % FOLDS == fold
                if out.all() or np.isnan(us[~out]).all():
                    continue
                found = _fit_kernel(widths[~out], us[~out], stairs, traits)(widths[out])
                total += float(np.abs(found - np.nan_to_num(us[out])).sum())
        return total

    bits: int = 2 * pools[0][0].shape[1]
    discriminating_bits = (1 << bits) - 1
    best = loss(discriminating_bits)
    for bit in reversed(range(bits)):
        less = discriminating_bits & ~(1 << bit)
        if (without := loss(less)) <= best:
            discriminating_bits, best = less, without
    return discriminating_bits


def _thinned(widths: Ints, us: Floats, cells: int) -> tuple[Ints, Floats]:
    stride = max(1, len(us) // cells)
    return widths[::stride], us[::stride]


def _relative_fit(terms: Floats, us: Floats, rounds: int) -> Floats:
    """Fit in relative error; times far below the largest count as if they were a tenth of it."""
    floor = 0.1 * us.max() + 0.5
    return robust_nonnegative(terms, us, np.minimum(1.0, us / floor), rounds)


def robust_nonnegative(terms: Floats, target: Floats, weight: Floats | None = None, rounds: int = 10) -> Floats:
    """`nonnegative` in relative error, in which versions that are far off count by their distance, not its square.

    Huber's weights (1964), reweighted; the scale is the median error.
    """
    relative = (np.ones_like(target) if weight is None else weight) / np.maximum(target, 1e-9)
    trust: Floats = np.ones_like(target)
    scale = np.abs(terms).max(0)
    scale[scale == 0] = 1.0
    found: Floats = np.zeros(terms.shape[1])
    for _ in range(rounds):
        w = np.sqrt(trust) * relative
        found = nonnegative(terms / scale * w[:, None], target * w) / scale
        errors = np.abs(terms @ found - target) * relative
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
