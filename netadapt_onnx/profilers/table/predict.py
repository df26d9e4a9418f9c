"""A latency table: a JSON-lines file of cells measured on one device, and the prediction made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.execution import Fingerprint
from netadapt_onnx.profilers.statistics import Disturbance, crowd, of_sessions
from netadapt_onnx.profilers.table.file import (
    ANEW,
    BEGINNING,
    SCHEMA,
    Cell,
    Header,
    OriginalTime,
    Record,
    Reference,
    Shapes,
    Whole,
    check,
    encode,
    header_of_file,
    read,
    require_schema,
)
from netadapt_onnx.profilers.table.kernel_fit import Floats, Stairs, robust_nonnegative
from netadapt_onnx.profilers.table.kernels import KernelClass, Sample, pooled
from netadapt_onnx.profilers.timing import Ratio, Timing
from netadapt_onnx.profilers.units import Layers, Unit, family

# What a table's file holds is known from here, too.
__all__ = [
    "BEGINNING",
    "SCHEMA",
    "Cell",
    "Header",
    "OriginalTime",
    "Record",
    "Reference",
    "Shapes",
    "Table",
    "Whole",
    "check",
    "encode",
    "family",
    "of_wholes",
    "read",
    "require_schema",
]

# Profiling costs 3-12 us a kernel; a fit that asks for more has found something else.
MOST_PROFILING_US = 15.0
# Relative budgets are shares of the uncut model (version 0), so the fit should pass close by it.
REFERENCE_WEIGHT = 3.0
# Versions count less by a factor of e for each such share by which the uncut model was slower beside them than in the
# calmest quarter: what disturbs a machine slows small models more (2% beside 2.5% at MobileNetV2).
DISTURBED = 0.02
# A version is measured precisely if the 95% interval of its median is no wider than this share of it.
PRECISE = 0.01
# Likely errors that hold 95% of versions where those are too few to tell.
LEAST_LEFT_OUT, FACTOR = 8, 3.0


@dataclass(frozen=True)
class Table:
    """Cells of one device and one model family. `truncated`: the last line was cut off and left out."""

    path: Path
    header: Header
    cells: tuple[Cell, ...]
    wholes: tuple[Whole, ...]
    reference: Reference
    truncated: bool
    layers: Layers

    @classmethod
    def load(cls, path: Path, proto: onnx.ModelProto, *, device: Fingerprint | None = None) -> Table:
        """Read a complete table for `proto` (cut or not).

        Raises NetadaptError: not a table, a corrupt line, nothing measured, unfinished, another model family, another
        device than `device`; the last two name what differs.
        """
        if not path.is_file():
            raise NetadaptError(f"{path}: no such file", code="missing-file")
        records, _, truncated = read(path)
        header = header_of_file(path, records)
        check(path, header, family(proto), device)
        wholes = {r.model: r for r in records if isinstance(r, Whole)}
        cells = tuple(r for r in records if isinstance(r, Cell) and r.model in wholes)
        layers = Layers(proto)
        wrong = layers.contradiction((cell.layers, cell.shapes) for cell in cells)
        if wrong is not None:
            raise NetadaptError(f"{path} has {wrong}", hint=ANEW, code="table")
        if not cells:
            raise NetadaptError(f"{path} holds no measured cell", hint=ANEW, code="table")
        references = [r for r in records if isinstance(r, Reference)]
        if not references:
            raise NetadaptError(f"{path} is not complete", hint="run `profile` again: it goes on", code="table")
        if all(cell.us is None for cell in cells):
            from netadapt_onnx.profilers.table.whole_model import WholeTable as cls  # it builds on this one
        return cls(path, header, cells, tuple(wholes.values()), references[-1], truncated, layers)

    @property
    def device(self) -> Fingerprint:
        """Fingerprint of the device the table is valid for."""
        return self.header.device

    @property
    def latency_ms(self) -> Timing:
        """The uncut model's measured latency."""
        return Timing(self.reference.median_ms, self.reference.ci95, self.reference.sessions)

    def normalising(self, sha256: str) -> Ratio | None:
        """The uncut model's time relative to that of the file with this hash, as given; None if nobody measured it."""
        known = self.reference.as_given
        return known.ratio if known is not None and known.sha256 == sha256 else None

    @property
    def seconds(self) -> float:
        """What building took, over all resumes."""
        return sum(w.seconds for w in self.wholes) + self.reference.seconds

    @property
    def drift(self) -> float:
        """By how much the device changed speed while the table was built: slowest over fastest batch, less 1.

        It is told by the uncut model, which takes its turn in every round, and taken out of all times.
        """
        speeds = [whole.reference_us or whole.beside_ms for whole in self.wholes]
        return max(speeds) / min(speeds) - 1

    @property
    def disturbance(self) -> Disturbance:
        """How disturbed the device was while the table was built."""
        return of_wholes(self.wholes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before this table is believed."""
        return (self.disturbance.caution(f"{self.path}"),) if self.disturbance.busy else ()

    @property
    def precise(self) -> int:
        """Versions whose median was known to 1% (its 95% interval's width) before a cap ended their rounds."""
        return sum(whole.interval <= PRECISE for whole in self.wholes)

    @property
    def stairs(self) -> Stairs:
        """The device's channel block and alignment, as chosen from the cells: widths off the alignment run slower."""
        return self._pools[0].fit.curve.stairs

    def predict(self, shapes: Shapes) -> float:
        """Latency in ms of the version of the model whose tensors have these shapes."""
        return self.latency_ms.median_ms * self.predict_ratio(shapes)

    def predict_ratio(self, shapes: Shapes) -> float:
        """Predicted time relative to the uncut model's."""
        slope, offset = self._calibration
        return slope * float(sum(self.predict_units(shapes).values())) + offset

    def predict_with_error(self, shapes: Shapes) -> tuple[float, float]:
        """Latency in ms, and the relative error that 95% of such predictions stay within, as the fit suggests.

        It grows where few cells are near or none was measured, in the measure in which fits without a part of the
        versions were off those (conformal prediction with a local scale: Lei et al. 2018).
        """
        slope, offset = self._calibration
        total, square = 0.0, 0.0
        for pool in self._pools:
            widths = pool.all_widths(shapes)
            total += float(pool.fit(widths).sum())
            square += float(pool.fit.errors(widths).sum()) ** 2
        return self.predict(shapes), self._error_factor * self._likely(slope * total + offset, slope * np.sqrt(square))

    def predict_units(self, shapes: Shapes) -> dict[str, float]:
        """Predicted microseconds of every unit by its main layer's name."""
        times: dict[str, float] = {}
        for pool in self._pools:
            us = pool.fit(pool.all_widths(shapes))
            times.update(zip((unit.name for unit in pool.units), us.tolist(), strict=True))
        return times

    @cached_property
    def units(self) -> dict[str, Unit]:
        """The unit of every layer."""
        return self.layers.units(dict.fromkeys(tuple(cell.layers) for cell in self.cells))

    @cached_property
    def _times(self) -> list[float]:
        """Microseconds of each cell at the mean speed of all rounds, without what the profiler adds to a kernel."""
        speed = np.mean([whole.reference_us for whole in self.wholes])
        scale = {whole.model: float(speed / whole.reference_us) for whole in self.wholes}
        times = [(cell.us or 0.0) * scale[cell.model] for cell in self.cells]
        overhead = self._profiling_us(times)
        return [max(0.0, us - overhead) for us in times]

    def _profiling_us(self, times: Sequence[float]) -> float:
        """Microseconds that profiling adds to each kernel: by how much versions of more kernels look too slow."""
        rows = {whole.model: np.zeros(2) for whole in self.wholes}
        for cell, us in zip(self.cells, times, strict=True):
            rows[cell.model] += (us, -1)
        if len(rows) < 8:
            return 0.0
        terms = np.array([rows[whole.model] for whole in self.wholes])
        slope, per_kernel = robust_nonnegative(terms, np.array([whole.ratio for whole in self.wholes]))
        return min(float(per_kernel / slope), MOST_PROFILING_US) if slope > 0 else 0.0

    @cached_property
    def _samples(self) -> dict[str, tuple[list[int], list[list[int]], dict[str, Floats]]]:
        """By unit name: measured version, the main layer's dimensions in a row, microseconds by kernel (NaN: none)."""
        rows: dict[str, dict[int, list[int]]] = {}
        sums: dict[str, dict[str, dict[int, float]]] = {}
        for cell, us in zip(self.cells, self._times, strict=True):
            unit = self.units[self.layers.main(cell.layers)]
            total = sums.setdefault(unit.name, {}).setdefault(cell.kernel, {})
            total[cell.model] = total.get(cell.model, 0.0) + us
            if unit.name in cell.layers:
                rows.setdefault(unit.name, {})[cell.model] = [d for shape in cell.shapes for d in shape]
        return {
            name: (
                list(found),
                list(found.values()),
                {k: np.array([times.get(m, np.nan) for m in found]) for k, times in sums[name].items()},
            )
            for name, found in rows.items()
        }

    @cached_property
    @stage("fitting the table")
    def _pools(self) -> tuple[KernelClass, ...]:
        samples = [Sample(self.units[name], *cells) for name, cells in self._samples.items()]
        return pooled(samples, self.header.models)

    @cached_property
    def _calibration(self) -> tuple[float, float]:
        """whole = slope * sum of units + offset, fitted to the unprofiled times."""
        totals, ratios = self._totals, np.array([whole.ratio for whole in self.wholes])
        if len(totals) < 3:
            return float(ratios.mean() / totals.mean()), 0.0
        weight = self._calm * np.where([whole.model == 0 for whole in self.wholes], REFERENCE_WEIGHT, 1.0)
        one = np.ones_like(totals)
        slope, above, below = robust_nonnegative(np.stack([totals, one, -one], 1), ratios, weight)
        return float(slope), float(above - below)

    @cached_property
    def _calm(self) -> Floats:
        """(versions,) how much each counts, by how slow the uncut model was beside it."""
        beside = np.array([whole.beside_ms for whole in self.wholes])
        weight: Floats = np.exp(-np.maximum(0.0, beside / np.quantile(beside, 0.25) - 1) / DISTURBED)
        return weight

    @cached_property
    def _totals(self) -> Floats:
        """(versions,) predicted microseconds of all units of each measured version."""
        sums = {whole.model: 0.0 for whole in self.wholes}
        for pool in self._pools:
            for unit in pool.units:
                models, dims, _ = self._samples[unit.name]
                times = pool.fit(np.array(dims, np.int64)[:, list(pool.columns)])
                for model, us in zip(models, times, strict=True):
                    sums[model] += float(us)
        return np.array([sums[whole.model] for whole in self.wholes])

    @cached_property
    def _noise(self) -> float:
        """How far whole times are off the sum of their units, as a share, half of the versions."""
        slope, offset = self._calibration
        ratios = np.array([whole.ratio for whole in self.wholes])
        return max(1e-4, float(np.median(np.abs((slope * self._totals + offset) / ratios - 1))))

    def _likely(self, ratio: float, error: float) -> float:
        """The likely relative error of a predicted ratio whose units are likely off by `error` together."""
        return float(np.hypot(error / max(ratio, 1e-9), self._noise))

    @cached_property
    def _error_factor(self) -> float:
        """So many likely errors hold 95% of the versions, each predicted without itself; disturbed ones count less."""
        slope, offset = self._calibration
        factors = []
        for whole in self.wholes:
            parts = [pool.left_out[whole.model] for pool in self._pools if whole.model in pool.left_out]
            ratio = slope * sum(us for us, _ in parts) + offset
            error = slope * float(np.sqrt(sum(error**2 for _, error in parts)))
            factors.append(abs(ratio / whole.ratio - 1) / self._likely(ratio, error))
        order = np.argsort(factors)
        share = np.cumsum(self._calm[order])
        holding = int(np.searchsorted(share, 0.95 * share[-1]))
        return factors[order[holding]] if len(factors) >= LEAST_LEFT_OUT else FACTOR


def of_wholes(wholes: Sequence[Whole]) -> Disturbance:
    """How disturbed the device was while these versions were measured."""
    return of_sessions([time for whole in wholes for time in whole.witness_ms], *crowd(wholes))
