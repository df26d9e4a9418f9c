"""Predicts a model's time as the sum of its kernels' times, calibrated on models timed end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from netadapt_onnx.common.progress import stage
from netadapt_onnx.profilers.table.arrays import Floats
from netadapt_onnx.profilers.table.file import Cell, EndToEndTime, Shapes
from netadapt_onnx.profilers.table.kernels import KernelClass, Sample, fit_kernel_classes
from netadapt_onnx.profilers.table.nonnegative_fit import REFERENCE_WEIGHT, robust_nonnegative
from netadapt_onnx.profilers.table.staircase import Staircase
from netadapt_onnx.profilers.units import Layers, Unit

# Profiling costs 3-12 us a kernel; a fit that asks for more has met something else.
MOST_PROFILING_US = 15.0
# Models count less by a factor of e for each such share by which the uncut model was slower in their rounds than in the
# quietest quarter: what disturbs a machine slows small models more (2% beside 2.5% at MobileNetV2).
OUTLIER_SLOWDOWN = 0.02
# Likely errors that hold 95% of the models where those are too few to say.
LEAST_OUT_OF_FOLD, FACTOR = 8, 3.0


@dataclass(frozen=True)
class KernelPredictor:
    """Predicts from the times of kernels; every fit is made when it is first needed.

    Attributes:
        cells: the kernels of the measured models, each with its time.
        end_to_end: the same models without profiling, and the uncut model in the same rounds.
        layers: the uncut model's layers.
        units: the unit of every layer.
        model_count: models whose numbers are equal modulo this are one, measured more than once.
    """

    cells: tuple[Cell, ...]
    end_to_end: tuple[EndToEndTime, ...]
    layers: Layers
    units: Mapping[str, Unit]
    model_count: int

    @property
    def staircase(self) -> Staircase:
        """The device's channel block and alignment, as chosen from the cells."""
        return self._kernel_classes[0].fit.curve.staircase

    def predict_ratio(self, shapes: Shapes) -> float:
        """Predicted time relative to the uncut model's."""
        slope, offset = self._calibration
        return slope * float(sum(self.predict_units(shapes).values())) + offset

    def predict_error(self, shapes: Shapes) -> float:
        """The relative error that 95% of such predictions stay within, as the fit suggests.

        It grows where few cells are near or none was measured, in the measure in which fits without a part of the
        models were off those (conformal prediction with a local scale: Lei et al. 2018).
        """
        slope, offset = self._calibration
        total, square = 0.0, 0.0
        for kernel_class in self._kernel_classes:
            widths = kernel_class.all_widths(shapes)
            total += float(kernel_class.fit(widths).sum())
            square += float(kernel_class.fit.errors(widths).sum()) ** 2
        return self._error_factor * self._likely_error(slope * total + offset, slope * np.sqrt(square))

    def predict_units(self, shapes: Shapes) -> dict[str, float]:
        """Predicted microseconds of every unit by its main layer's name.

        A search asks for thousands of models that differ in a unit or two: what was predicted once is remembered. Each
        width is predicted by itself, so that what was asked for before has no part in the last digits.
        """
        times: dict[str, float] = {}
        for kernel_class, us_by_widths in zip(self._kernel_classes, self._us_by_widths, strict=True):
            all_widths = kernel_class.all_widths(shapes)
            for unit, widths in zip(kernel_class.units, map(tuple, all_widths.tolist()), strict=True):
                if widths not in us_by_widths:
                    us_by_widths[widths] = float(kernel_class.fit(np.array([widths], all_widths.dtype))[0])
                times[unit.name] = us_by_widths[widths]
        return times

    @cached_property
    def _us_by_widths(self) -> tuple[dict[tuple[int, ...], float], ...]:
        """By class of kernels, the predicted microseconds of widths that were asked for."""
        return tuple({} for _ in self._kernel_classes)

    @cached_property
    def _cell_us(self) -> list[float]:
        """Microseconds of each cell at the mean speed of all rounds, without what the profiler adds to a kernel."""
        speed = np.mean([time.reference_us for time in self.end_to_end])
        scale = {time.model: float(speed / time.reference_us) for time in self.end_to_end}
        cell_us = [(cell.us or 0.0) * scale[cell.model] for cell in self.cells]
        overhead_us = self._profiling_us(cell_us)
        return [max(0.0, us - overhead_us) for us in cell_us]

    def _profiling_us(self, cell_us: Sequence[float]) -> float:
        """Microseconds that profiling adds to each kernel: by how much models of more kernels look too slow."""
        rows = {time.model: np.zeros(2) for time in self.end_to_end}
        for cell, us in zip(self.cells, cell_us, strict=True):
            rows[cell.model] += (us, -1)
        if len(rows) < 8:
            return 0.0
        terms = np.array([rows[time.model] for time in self.end_to_end])
        slope, per_kernel = robust_nonnegative(terms, self._ratios)
        return min(float(per_kernel / slope), MOST_PROFILING_US) if slope > 0 else 0.0

    @cached_property
    def _ratios(self) -> Floats:
        """(models,) each measured model's time relative to the uncut model's."""
        return np.array([time.ratio for time in self.end_to_end])

    @cached_property
    def _samples(self) -> dict[str, Sample]:
        """The cells of each unit by its name."""
        dims: dict[str, dict[int, list[int]]] = {}
        sums: dict[str, dict[str, dict[int, float]]] = {}
        for cell, us in zip(self.cells, self._cell_us, strict=True):
            unit = self.units[self.layers.main(cell.layers)]
            total = sums.setdefault(unit.name, {}).setdefault(cell.kernel, {})
            total[cell.model] = total.get(cell.model, 0.0) + us
            if unit.name in cell.layers:
                dims.setdefault(unit.name, {})[cell.model] = [d for shape in cell.shapes for d in shape]
        return {
            name: Sample(
                self.units[name],
                list(rows),
                np.array(list(rows.values()), np.int64),
                {k: np.array([times.get(model, np.nan) for model in rows]) for k, times in sums[name].items()},
            )
            for name, rows in dims.items()
        }

    @cached_property
    @stage("fitting the table")
    def _kernel_classes(self) -> tuple[KernelClass, ...]:
        return fit_kernel_classes(list(self._samples.values()), self.model_count)

    @cached_property
    def _calibration(self) -> tuple[float, float]:
        """Slope and offset: ratio = slope * sum of units + offset, fitted to the times end to end."""
        totals, ratios = self._totals_us, self._ratios
        if len(totals) < 3:
            return float(ratios.mean() / totals.mean()), 0.0
        uncut = [time.model == 0 for time in self.end_to_end]
        weight = self._outlier_weights * np.where(uncut, REFERENCE_WEIGHT, 1.0)
        one = np.ones_like(totals)
        slope, above, below = robust_nonnegative(np.stack([totals, one, -one], 1), ratios, weight)
        return float(slope), float(above - below)

    @cached_property
    def _outlier_weights(self) -> Floats:
        """(models,) how much each counts, by how slow the uncut model was in the same rounds."""
        reference_ms = np.array([time.mean_reference_ms for time in self.end_to_end])
        slowdown = np.maximum(0.0, reference_ms / np.quantile(reference_ms, 0.25) - 1)
        weight: Floats = np.exp(-slowdown / OUTLIER_SLOWDOWN)
        return weight

    @cached_property
    def _totals_us(self) -> Floats:
        """(models,) predicted microseconds of all units of each measured model."""
        sums = {time.model: 0.0 for time in self.end_to_end}
        for kernel_class in self._kernel_classes:
            for unit in kernel_class.units:
                sample = self._samples[unit.name]
                times = kernel_class.fit(sample.dims[:, list(kernel_class.columns)])
                for model, us in zip(sample.models, times, strict=True):
                    sums[model] += float(us)
        return np.array([sums[time.model] for time in self.end_to_end])

    @cached_property
    def _noise(self) -> float:
        """How far times end to end are off the sum of their units, as a share, of half of the models."""
        slope, offset = self._calibration
        return max(1e-4, float(np.median(np.abs((slope * self._totals_us + offset) / self._ratios - 1))))

    def _likely_error(self, ratio: float, error: float) -> float:
        """The likely relative error of a predicted ratio whose units are likely off by `error` together."""
        return float(np.hypot(error / max(ratio, 1e-9), self._noise))

    @cached_property
    def _error_factor(self) -> float:
        """So many likely errors hold 95% of the models, each predicted without itself; disturbed ones count less."""
        slope, offset = self._calibration
        factors = []
        for time in self.end_to_end:
            parts = [c.out_of_fold[time.model] for c in self._kernel_classes if time.model in c.out_of_fold]
            ratio = slope * sum(us for us, _ in parts) + offset
            error = slope * float(np.sqrt(sum(error**2 for _, error in parts)))
            factors.append(abs(ratio / time.ratio - 1) / self._likely_error(ratio, error))
        order = np.argsort(factors)
        share = np.cumsum(self._outlier_weights[order])
        holding = int(np.searchsorted(share, 0.95 * share[-1]))
        return factors[order[holding]] if len(factors) >= LEAST_OUT_OF_FOLD else FACTOR
