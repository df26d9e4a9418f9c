"""What a fitted curve leaves over: widths near each other are off alike, and far from all cells errors are unknown.

A curve has a few terms for each class of widths; kernels have more to them. On a processor whose first cache is 12-way,
undoing the layout of 12 channels of 32x32 takes 6 us, of 13 channels 16 us. So what cells near by are off is added,
drawn towards zero (Nadaraya 1964, Watson 1964), and how far those are off without themselves estimates the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netadapt_onnx.profilers.table.arrays import Floats, Ints
from netadapt_onnx.profilers.table.kernel_fit import Curve

# Cells this far away, in octaves, count e^-0.5 of one at the same widths: 13 and 14 channels. Uniform cuts of ResNet-20
# were off by 1.2%, 0.9%, 1.0% with 0.05, 0.1, 0.2, and by 2.2% without corrections.
REACH = 0.1
# A correction is drawn towards none as by so many cells.
PRIOR = 1.0
# At least this share of a curve's time remains.
LEAST_SHARE = 0.3
# However well it fits its cells, beyond them no curve is trusted to be off by less than this share.
LEAST_UNKNOWN = 0.03
# Widths of a class without any cell are as far away as so many octaves.
UNSEEN = 1.0


@dataclass(frozen=True)
class Residuals:
    """What a curve leaves of the n cells of one kind of unit, and the corrections that follow from it.

    Attributes:
        curve: the fitted curve.
        octaves: (n, k) the cells' widths as logarithms to base 2.
        width_classes: (n,) the classes of those widths.
        fitted_us: (n,) the microseconds that the curve gives.
        off_us: (n,) the measured microseconds less those.
        errors_us: (n,) how far each cell is off with the correction that the others give it.
        share: the relative error of the curve where no cell is near.
        corrects: whether corrections make the cells' own errors smaller.
    """

    curve: Curve
    octaves: Floats
    width_classes: Ints
    fitted_us: Floats
    off_us: Floats
    errors_us: Floats
    share: float
    corrects: bool

    def __call__(self, widths: Ints) -> Floats:
        """(n, k) widths -> (n,) microseconds with corrections."""
        us = self.curve(widths)
        if not self.corrects:
            return us
        distance = _distances(_octaves(widths), self.octaves)
        near = _near(distance, self.curve.staircase.width_classes(widths), self.width_classes)
        corrected: Floats = np.maximum(LEAST_SHARE * us, us + near @ self.off_us / (near.sum(1) + PRIOR))
        return corrected

    def errors(self, widths: Ints) -> Floats:
        """(n, k) widths -> (n,) the likely error in microseconds.

        Where cells are near it is theirs. Beyond what was measured it is a share of the nearest measured time that
        grows with every octave.
        """
        classes = self.curve.staircase.width_classes(widths)
        distance = _distances(_octaves(widths), self.octaves)
        near = _near(distance, classes, self.width_classes)
        nearest = distance.argmin(1)
        far = distance[np.arange(len(widths)), nearest] + UNSEEN * ~np.isin(classes, self.width_classes)
        unknown = self.share * np.maximum(self.curve(widths), self.fitted_us[nearest]) * (1 + far) ** 2
        squares = near @ self.errors_us**2 + PRIOR * unknown**2
        likely: Floats = np.sqrt(squares / (near.sum(1) + PRIOR))
        return likely


def residuals(curve: Curve, widths: Ints, us: Floats) -> Residuals:
    """Compare `curve` with cells: widths (n, k), microseconds (n,) of all kernels together."""
    octaves, classes = _octaves(widths), curve.staircase.width_classes(widths)
    fitted = curve(widths)
    off = us - fitted
    near = _near(_distances(octaves, octaves), classes, classes)
    np.fill_diagonal(near, 0.0)
    corrected = off - near @ off / (near.sum(1) + PRIOR)
    corrects = bool(np.abs(corrected).sum() < np.abs(off).sum())
    errors = np.abs(corrected if corrects else off)
    return Residuals(curve, octaves, classes, fitted, off, errors, max(LEAST_UNKNOWN, curve.spread / 1.96), corrects)


def _octaves(widths: Ints) -> Floats:
    octaves: Floats = np.log2(np.maximum(1, widths))
    return octaves


def _distances(some: Floats, others: Floats) -> Floats:
    """(n, k), (m, k) -> (n, m)."""
    distances: Floats = np.sqrt(((some[:, None] - others[None]) ** 2).sum(2))
    return distances


def _near(distances: Floats, some: Ints, others: Ints) -> Floats:
    """(n, m) how much m cells count for n widths at these distances: only cells of the same class do."""
    weights: Floats = np.exp(-0.5 * (distances / REACH) ** 2) * (some[:, None] == others[None])
    return weights
