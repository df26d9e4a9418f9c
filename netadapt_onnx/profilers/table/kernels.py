"""Classes of kernels: units of one kind share their cells and one curve, and what cells near by leave of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.profilers.table.arrays import Bools, Floats, Ints
from netadapt_onnx.profilers.table.kernel_fit import Traits, choose_block, choose_staircase, choose_traits, fit_curve
from netadapt_onnx.profilers.table.residuals import Residuals, residuals
from netadapt_onnx.profilers.table.staircase import Staircase
from netadapt_onnx.profilers.units import Unit

# Parts of the measured models that take turns in being left out, to see how far a fit is off what it has not seen.
FOLDS = 4


@dataclass(frozen=True)
class Sample:
    """A unit's cells.

    Attributes:
        unit: the unit.
        models: (n,) the number of the measured model that each cell is of.
        dims: (n, d) the dimensions of the main layer's tensors in each.
        us: by kernel, (n,) microseconds; NaN where the kernel did not run.
    """

    unit: Unit
    models: Sequence[int]
    dims: Ints
    us: Mapping[str, Floats]


@dataclass(frozen=True)
class KernelClass:
    """Units of one kind with the curve that predicts their time.

    Attributes:
        units: the units.
        columns: which dimensions of the main layer are its widths.
        fit: the curve and what it leaves of the cells.
        out_of_fold: by measured model, the microseconds of its units together that a fit without that model predicts,
            and how far those are likely off.
    """

    units: tuple[Unit, ...]
    columns: tuple[int, ...]
    fit: Residuals
    out_of_fold: Mapping[int, tuple[float, float]]

    def all_widths(self, shapes: Mapping[str, tuple[int, ...]]) -> Ints:
        """(units, k): the units' widths in a model with these shapes."""
        dims = [[d for name in unit.tensors for d in shapes[name]] for unit in self.units]
        return np.array([[row[column] for column in self.columns] for row in dims], np.int64)


@dataclass(frozen=True)
class _ClassCells:
    """The cells of a class of kernels before its curve is fitted: those of all its units together."""

    units: tuple[Unit, ...]
    columns: tuple[int, ...]
    models: Ints
    widths: Ints
    us: Mapping[str, Floats]

    def fit(self, rows: Bools, staircase: Staircase, traits: Mapping[str, Traits]) -> Residuals:
        """The curve of some of the cells and what it leaves of them."""
        us = {kernel: times[rows] for kernel, times in self.us.items() if not np.isnan(times[rows]).all()}
        curve = fit_curve(self.widths[rows], us, staircase, traits)
        return residuals(curve, self.widths[rows], np.nansum(list(self.us.values()), 0)[rows])

    def out_of_fold(
        self, staircase: Staircase, traits: Mapping[str, Traits], model_count: int
    ) -> dict[int, tuple[float, float]]:
        """By model, what the cells of other models predict: microseconds of all units, and their likely error."""
        sums: dict[int, tuple[float, float]] = {}
        for fold in range(FOLDS):
            out = self.models % model_count % FOLDS == fold  # a model that was measured again goes with the first time
            if out.all() or not out.any():
                continue
            fit, widths = self.fit(~out, staircase, traits), self.widths[out]
            rows = zip(self.models[out].tolist(), fit(widths).tolist(), fit.errors(widths).tolist(), strict=True)
            for model, us, error_us in rows:
                sum_us, sum_error_us = sums.get(model, (0.0, 0.0))
                sums[model] = (sum_us + us, sum_error_us + error_us)  # units of one kind are off alike
        return sums


def fit_kernel_classes(samples: Sequence[Sample], model_count: int) -> tuple[KernelClass, ...]:
    """Sort a table's cells into classes and fit the curve of each.

    What is true of a kernel everywhere is chosen from the cells of all classes.

    Args:
        samples: the cells of every unit.
        model_count: models whose numbers are equal modulo this are one, measured more than once.
    """
    by_kind: dict[tuple[object, ...], list[Sample]] = {}
    for sample in samples:
        varies = (sample.dims != sample.dims[0]).any(0)
        fixed = tuple(None if v else int(d) for v, d in zip(varies, sample.dims[0], strict=True))
        by_kind.setdefault((sample.unit.kind, fixed), []).append(sample)
    classes = [_class_cells(members) for members in by_kind.values()]
    staircase = choose_staircase([(c.widths, c.us) for c in classes])
    traits: dict[tuple[str, int], Traits] = {}
    for kernel in dict.fromkeys(kernel for c in classes for kernel in c.us):
        cells = [(c.widths, c.us[kernel]) for c in classes if kernel in c.us]
        block = choose_block(cells, staircase)
        for count in {widths.shape[1] for widths, _ in cells}:
            alike = [(widths, us) for widths, us in cells if widths.shape[1] == count]
            traits[kernel, count] = choose_traits(alike, staircase, block)
    kernel_classes = []
    for c in classes:
        own = {kernel: traits[kernel, c.widths.shape[1]] for kernel in c.us}
        fit = c.fit(np.ones(len(c.widths), bool), staircase, own)
        kernel_classes.append(KernelClass(c.units, c.columns, fit, c.out_of_fold(staircase, own, model_count)))
    return tuple(kernel_classes)


def _class_cells(members: Sequence[Sample]) -> _ClassCells:
    rows = np.concatenate([sample.dims for sample in members])
    models = np.concatenate([np.array(sample.models, np.int64) for sample in members])
    columns = _distinct_columns(rows)
    kernels = dict.fromkeys(kernel for sample in members for kernel in sample.us)
    us = {k: np.concatenate([s.us.get(k, np.full(len(s.dims), np.nan)) for s in members]) for k in kernels}
    return _ClassCells(tuple(sample.unit for sample in members), tuple(columns), models, rows[:, columns], us)


def _distinct_columns(rows: Ints) -> list[int]:
    """The columns that vary, each once."""
    first_column: dict[bytes, int] = {}
    for column in np.flatnonzero((rows != rows[0]).any(0)):
        first_column.setdefault(rows[:, column].tobytes(), int(column))
    return list(first_column.values())
