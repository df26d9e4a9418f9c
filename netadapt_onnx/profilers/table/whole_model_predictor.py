"""Predicts a model's time where the provider shows no times of nodes: from models timed end to end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from netadapt_onnx.profilers.table.file import Cell, EndToEndTime, Shapes
from netadapt_onnx.profilers.table.staircase import Staircase
from netadapt_onnx.profilers.table.whole_model_fit import WholeModelFit, fit_whole_model
from netadapt_onnx.profilers.units import Layers


@dataclass(frozen=True)
class WholeModelPredictor:
    """Predicts from models as wholes; the fit is made when it is first needed.

    Attributes:
        cells: a cell without a time for each layer of the measured models, for the shapes of all tensors.
        end_to_end: the times of the measured models, and of the uncut model in the same rounds.
        layers: the uncut model's layers.
        uncut_us: the uncut model's time in microseconds.
    """

    cells: tuple[Cell, ...]
    end_to_end: tuple[EndToEndTime, ...]
    layers: Layers
    uncut_us: float

    @property
    def staircase(self) -> Staircase:
        """The block and alignment that explain the times best."""
        return self._fit.staircase

    def predict_ratio(self, shapes: Shapes) -> float:
        """Predicted time relative to the uncut model's."""
        return self._fit.predict_ratio(shapes)

    def predict_error(self, shapes: Shapes) -> float:
        """The relative error that 95% of such predictions stay within, as models left out of the fit suggest.

        It grows where the measured models say little of these shapes.
        """
        return self._fit.predict_error(shapes)

    def predict_units(self, shapes: Shapes) -> dict[str, float]:
        """The microseconds of the uncut model's time that the fit gives to every layer, by its name."""
        return {name: share * self.uncut_us for name, share in self._fit.predict_layers(shapes).items()}

    @cached_property
    def _fit(self) -> WholeModelFit:
        shapes: dict[int, dict[str, tuple[int, ...]]] = {time.model: {} for time in self.end_to_end}
        for cell in self.cells:
            shapes[cell.model].update(zip(self.layers.tensors(cell.layers[0]), map(tuple, cell.shapes), strict=True))
        ratios = np.array([time.ratio for time in self.end_to_end])
        uncut = next((i for i, time in enumerate(self.end_to_end) if time.model == 0), None)
        return fit_whole_model(self.layers.proto, list(shapes.values()), ratios, uncut)
