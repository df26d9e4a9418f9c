"""Pools: units of one kind share their cells and one curve, and what cells near by leave of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.profilers.table.kernel_fit import (
    Bools,
    Floats,
    Ints,
    Stairs,
    Traits,
    choose_block,
    choose_stairs,
    choose_traits,
    fit_curve,
)
from netadapt_onnx.profilers.table.residuals import Residuals, residuals
from netadapt_onnx.profilers.units import Unit

# Parts of the versions that take turns in being left out, to see how far a fit is off what it has not seen.
FOLDS = 4


@dataclass(frozen=True)
class Sample:
    """A unit's cells: measured versions, the main layer's dimensions in each, and by kernel microseconds.

    NaN: the kernel did not run.
    """

    unit: Unit
    versions: Sequence[int]
    dims: Sequence[Sequence[int]]
    us: Mapping[str, Floats]


@dataclass(frozen=True)
class KernelClass:
    """Units of one kind. `columns`: which dimensions of the main layer are its widths.

    `left_out`: by version, what a fit without it says of its units together, and how far that is likely off, in us.
    """

    units: tuple[Unit, ...]
    columns: tuple[int, ...]
    fit: Residuals
    left_out: Mapping[int, tuple[float, float]]

    def all_widths(self, shapes: Mapping[str, tuple[int, ...]]) -> Ints:
        """(units, k): the units' widths in a version with these shapes."""
        dims = [[d for name in unit.tensors for d in shapes[name]] for unit in self.units]
        return np.array([[row[column] for column in self.columns] for row in dims], np.int64)


@dataclass(frozen=True)
class _Draft:
    """A pool before its curve is fitted: its units' cells together."""

    units: tuple[Unit, ...]
    columns: tuple[int, ...]
    versions: Ints
    widths: Ints
    us: Mapping[str, Floats]

    @property
    def total_us(self) -> Floats:
        """Of all kernels."""
        total: Floats = np.nansum(list(self.us.values()), 0)
        return total

    def fitted(self, rows: Bools, stairs: Stairs, traits: Mapping[str, Traits]) -> Residuals:
        """The curve of some of the cells and what it leaves of them."""
        us = {kernel: times[rows] for kernel, times in self.us.items() if not np.isnan(times[rows]).all()}
        return residuals(fit_curve(self.widths[rows], us, stairs, traits), self.widths[rows], self.total_us[rows])

    def left_out(self, stairs: Stairs, traits: Mapping[str, Traits], models: int) -> dict[int, tuple[float, float]]:
        """By version, what the cells of other versions say of it: microseconds of all units, and their likely error."""
        found: dict[int, tuple[float, float]] = {}
        for fold in range(FOLDS):
            out = self.versions % models % FOLDS == fold  # a version that was measured again goes with the first time
            if out.all() or not out.any():
                continue
            fitted, widths = self.fitted(~out, stairs, traits), self.widths[out]
            rows = zip(
                self.versions[out].tolist(), fitted(widths).tolist(), fitted.errors(widths).tolist(), strict=True
            )
            for version, one, error in rows:
                before = found.get(version, (0.0, 0.0))
                found[version] = (before[0] + one, before[1] + error)  # units of one kind are off alike
        return found


def pooled(samples: Sequence[Sample], models: int) -> tuple[KernelClass, ...]:
    """Pools of a table's cells, each with its curve; what is true of a kernel everywhere is told from all pools.

    Versions with the same number modulo `models` are one, measured more than once.
    """
    by_kind: dict[tuple[object, ...], list[Sample]] = {}
    for sample in samples:
        rows = np.array(sample.dims, np.int64)
        varies = (rows != rows[0]).any(0)
        fixed = tuple(None if v else int(d) for v, d in zip(varies, rows[0], strict=True))
        by_kind.setdefault((sample.unit.kind, fixed), []).append(sample)
    drafts = [_draft(members) for members in by_kind.values()]
    stairs = choose_stairs([(d.widths, d.us) for d in drafts])
    traits: dict[tuple[str, int], Traits] = {}
    for kernel in dict.fromkeys(kernel for d in drafts for kernel in d.us):
        cells = [(d.widths, d.us[kernel]) for d in drafts if kernel in d.us]
        block = choose_block(cells, stairs)
        for count in {widths.shape[1] for widths, _ in cells}:
            alike = [(widths, us) for widths, us in cells if widths.shape[1] == count]
            traits[kernel, count] = choose_traits(alike, stairs, block)
    pools = []
    for d in drafts:
        own = {kernel: traits[kernel, d.widths.shape[1]] for kernel in d.us}
        fit = d.fitted(np.ones(len(d.widths), bool), stairs, own)
        pools.append(KernelClass(d.units, d.columns, fit, d.left_out(stairs, own, models)))
    return tuple(pools)


def _draft(members: Sequence[Sample]) -> _Draft:
    rows = np.concatenate([np.array(sample.dims, np.int64) for sample in members])
    versions = np.concatenate([np.array(sample.versions, np.int64) for sample in members])
    columns = _distinct(rows)
    kernels = dict.fromkeys(kernel for sample in members for kernel in sample.us)
    us = {k: np.concatenate([s.us.get(k, np.full(len(s.dims), np.nan)) for s in members]) for k in kernels}
    return _Draft(tuple(sample.unit for sample in members), tuple(columns), versions, rows[:, columns], us)


def _distinct(rows: Ints) -> list[int]:
    """Columns that vary, each once."""
    seen: dict[bytes, int] = {}
    for column in np.flatnonzero((rows != rows[0]).any(0)):
        seen.setdefault(rows[:, column].tobytes(), int(column))
    return list(seen.values())
