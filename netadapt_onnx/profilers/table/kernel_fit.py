"""From measured cells to a function of widths: non-negative staircases, one per kernel of a kind of unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from netadapt_onnx.profilers.table.arrays import Floats, Ints
from netadapt_onnx.profilers.table.nonnegative_fit import robust_nonnegative
from netadapt_onnx.profilers.table.staircase import ALL_BITS, Staircase

BLOCKS = (1, 4, 8, 16, 32)
ALIGNMENTS = (1, 2, 4, 8)
# How often the weights of a robust fit of cells are revised: sessions that were disturbed are a tenth of all.
ROBUST = 4
# Alignments are equally good if they leave no more than this share of the time unexplained beyond the best.
UNEXPLAINED = 0.002
# A class of widths with fewer cells than this borrows the common curve.
FEWEST = 12
# Parts of the cells that take turns in being left out.
FOLDS = 4
# So many cells of a kind of unit choose blocks. Of 60, in models of all kinds, too few were of any class: one table
# of four saw blocks of 4 channels in place of 16, and was off by 8% instead of 2%.
MOST_CELLS = 240


@dataclass(frozen=True)
class Traits:
    """What is true of a kernel in all kinds of unit that it runs in.

    `block`: its channel block. `discriminating_bits`: the bits of classes that make a difference to it. `runs`: by
    class of widths how often it ran.
    """

    block: int
    discriminating_bits: int = ALL_BITS
    runs: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class KernelCurve:
    """Time (microseconds) of one kernel of a kind of unit over the unit's widths, times the share in which it runs.

    A class of widths that has no cell runs what the nearest classes run, and takes as long as the slowest of them: what
    slows a kernel down that reads so, or that writes so, slows one down that does both.

    Attributes:
        staircase: it gives the classes of widths.
        steps: it gives the terms: each kernel has a channel block of its own.
        common: (f,) coefficients of the regular widths.
        own: (f,) coefficients of classes with cells enough for terms of their own.
        near: of classes with a few cells: a multiple of `common`, a price per product of widths, an offset.
        shares: by class, how often the kernel ran.
        traits: what is true of the kernel everywhere.
    """

    staircase: Staircase
    steps: Staircase
    common: Floats
    own: dict[int, Floats]
    near: dict[int, Floats]
    shares: dict[int, float]
    traits: Traits

    def __call__(self, widths: Ints) -> Floats:
        """(n, k) widths -> (n,) microseconds. A class without any cell costs what the next aligned widths cost."""
        classes = self.staircase.width_classes(widths, self.traits.discriminating_bits)
        unseen = ~np.isin(classes, list(self.shares))
        widths = np.where(unseen[:, None], self.staircase.aligned(widths), widths)
        result: Floats = np.zeros(len(widths))
        for code in map(int, np.unique(classes)):
            rows = classes == code
            codes = [code] if code in self.shares else self._nearest(code)
            if share := self.shares[codes[0]]:
                result[rows] = share * np.max([self._time(c, widths[rows]) for c in codes if self.shares[c]], 0)
        return result

    def _time(self, code: int, widths: Ints) -> Floats:
        """(n, k) widths -> (n,) microseconds of the kernel when it runs, of a class that has cells."""
        if code in self.own:
            return self.steps.features(widths) @ self.own[code]
        base: Floats = self.steps.features(self.staircase.aligned(widths)) @ self.common
        return _few_terms(base, widths) @ self.near[code] if code in self.near else base

    def _nearest(self, code: int) -> list[int]:
        """The nearest classes with cells, the commonest first.

        In these the kernel runs, or does not, as it does in this class elsewhere, and they differ in the fewest bits.
        """
        runs = self.traits.runs

        def distance(other: int) -> tuple[bool, int]:
            differs = code in runs and (runs[code] >= 0.5) != (self.shares[other] >= 0.5)
            return differs, (code ^ other).bit_count()

        least = min(map(distance, self.shares))
        return [other for other in self.shares if distance(other) == least]


@dataclass(frozen=True)
class Curve:
    """Time (microseconds) of one kind of unit over its widths: the sum of its kernels'.

    Which kernels run depends on the widths: layout changes come and go, and fast kernels do not take all widths.
    `spread`: the relative error that 95% of its cells stay within.
    """

    staircase: Staircase
    kernels: tuple[KernelCurve, ...]
    spread: float

    def __call__(self, widths: Ints) -> Floats:
        """(n, k) widths -> (n,) microseconds."""
        total: Floats = np.sum([kernel(widths) for kernel in self.kernels], 0)
        return total


def fit_curve(
    widths: Ints,
    us: Mapping[str, Floats],
    staircase: Staircase,
    traits: Mapping[str, Traits] | None = None,
    *,
    rounds: int = ROBUST,
) -> Curve:
    """Fit the curve of a kind of unit to its cells.

    Args:
        widths: (n, k) the unit's widths in each cell.
        us: by kernel, (n,) microseconds; NaN where it did not run.
        staircase: the device's block and alignment.
        traits: those of the kernels, by name; a kernel without any has the staircase's block.
        rounds: how often outliers are reweighted.
    """
    default = Traits(staircase.block)
    kernels = tuple(
        _fit_kernel(widths, times, staircase, (traits or {}).get(name, default), rounds) for name, times in us.items()
    )
    curve = Curve(staircase, kernels, 0.0)
    totals = np.nansum(list(us.values()), 0)
    off = np.abs(curve(widths) - totals) / np.maximum(totals, 0.2 * totals.max() + 0.5)
    return replace(curve, spread=float(np.quantile(off, 0.95)))


def _fit_kernel(widths: Ints, times: Floats, staircase: Staircase, traits: Traits, rounds: int = 1) -> KernelCurve:
    """Least squares in relative error with coefficients >= 0, class by class where there are cells enough."""
    steps = Staircase(traits.block, staircase.alignment)
    classes = staircase.width_classes(widths, traits.discriminating_bits)
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
    base = steps.features(staircase.aligned(rows)) @ common
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
    return KernelCurve(staircase, steps, common, own, near, shares, traits)


def _few_terms(base: Floats, widths: Ints) -> Floats:
    """The terms that a class with a few cells is fitted with, in the order in which cells allow them."""
    return np.stack([base, widths.prod(1).astype(np.float64), np.ones(len(base))], 1)


def choose_staircase(kernel_classes: Sequence[tuple[Ints, Mapping[str, Floats]]], cells: int = MOST_CELLS) -> Staircase:
    """Choose the block and alignment that explain best which kernels run, then how long they take.

    Args:
        kernel_classes: of each kind of unit the widths (n, k), and by kernel the microseconds (n,; NaN: did not run).
        cells: how many cells of each at most choose the block.
    """
    kernel_classes = [(widths, us) for widths, us in kernel_classes if widths.shape[1]]
    unexplained = {a: sum(_unexplained_us(w, us, Staircase(1, a)) for w, us in kernel_classes) for a in ALIGNMENTS}
    at_stake = sum(float(np.nansum(times)) for _, us in kernel_classes for times in us.values())
    alignments = [a for a in ALIGNMENTS if unexplained[a] <= min(unexplained.values()) + UNEXPLAINED * at_stake]
    samples = [_thin_out(widths, np.nansum(list(us.values()), 0), cells) for widths, us in kernel_classes]

    def loss(staircase: Staircase) -> float:
        return sum(float(np.abs(fit_curve(w, {"": us}, staircase, rounds=1)(w) - us).sum()) for w, us in samples)

    return min((Staircase(block, alignment) for block in BLOCKS for alignment in alignments), key=loss)


def _unexplained_us(widths: Ints, us: Mapping[str, Floats], staircase: Staircase) -> float:
    """Microseconds of kernels that run in some rows of a class of widths and not in others."""
    classes = staircase.width_classes(widths)
    total = 0.0
    for times in us.values():
        for code in np.unique(classes):
            rows = times[classes == code]
            total += float(np.isnan(rows).mean() * np.nansum(rows))
    return total


def choose_block(kernel_classes: Sequence[tuple[Ints, Floats]], staircase: Staircase) -> int:
    """Choose the block under which one kernel fits best in all kinds of unit.

    Args:
        kernel_classes: of each kind of unit the widths (n, k) and the kernel's microseconds (n,; NaN: did not run).
        staircase: the device's block and alignment.
    """
    ran = [(widths, us, ~np.isnan(us)) for widths, us in kernel_classes if widths.shape[1]]
    samples = [_thin_out(widths[rows], us[rows]) for widths, us, rows in ran]

    def loss(block: int) -> float:
        traits = Traits(block)
        return sum(float(np.abs(_fit_kernel(w, us, staircase, traits)(w) - us).sum()) for w, us in samples)

    return min((staircase.block, *BLOCKS), key=loss)


def choose_traits(kernel_classes: Sequence[tuple[Ints, Floats]], staircase: Staircase, block: int) -> Traits:
    """Choose what the kinds of unit with the same number of widths have in common about a kernel of this block.

    `kernel_classes`: widths (n, k), of the same k, and microseconds (n,; NaN: did not run).
    """
    bits = _discriminating_bits(kernel_classes, staircase, block)
    classes = np.concatenate([staircase.width_classes(widths, bits) for widths, _ in kernel_classes])
    ran = np.concatenate([~np.isnan(us) for _, us in kernel_classes])
    return Traits(block, bits, {int(c): float(ran[classes == c].mean()) for c in np.unique(classes)})


def _discriminating_bits(kernel_classes: Sequence[tuple[Ints, Floats]], staircase: Staircase, block: int) -> int:
    """Choose the bits of classes that make a difference to one kernel, by the errors of cells that were left out.

    A bit without which the others are predicted as well would only part cells that belong together. The last width,
    the result's, is tried first: it matters least.
    """

    def loss(bits: int) -> float:
        traits = Traits(block, bits)
        total = 0.0
        for widths, us in kernel_classes:
            for fold in range(FOLDS):
                out = np.arange(len(us)) % FOLDS == fold
                if out.all() or np.isnan(us[~out]).all():
                    continue
                predicted_us = _fit_kernel(widths[~out], us[~out], staircase, traits)(widths[out])
                total += float(np.abs(predicted_us - np.nan_to_num(us[out])).sum())
        return total

    count: int = 2 * kernel_classes[0][0].shape[1]
    bits = (1 << count) - 1
    best = loss(bits)
    for bit in reversed(range(count)):
        fewer = bits & ~(1 << bit)
        if (loss_without := loss(fewer)) <= best:
            bits, best = fewer, loss_without
    return bits


def _thin_out(widths: Ints, us: Floats, cells: int = MOST_CELLS) -> tuple[Ints, Floats]:
    stride = max(1, len(us) // cells)
    return widths[::stride], us[::stride]


def _relative_fit(terms: Floats, us: Floats, rounds: int) -> Floats:
    """Fit in relative error; times far below the largest count as if they were a tenth of it."""
    floor = 0.1 * us.max() + 0.5
    return robust_nonnegative(terms, us, np.minimum(1.0, us / floor), rounds)
