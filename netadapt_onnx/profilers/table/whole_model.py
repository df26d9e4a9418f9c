"""A table of a provider that shows no times of nodes: the same file and questions, answered by `whole_model_fit.py`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from netadapt_onnx.profilers.table.kernel_fit import Floats, Stairs
from netadapt_onnx.profilers.table.predict import Shapes, Table
from netadapt_onnx.profilers.table.whole_model_fit import WholeFit, fit_wholes


@dataclass(frozen=True)
class WholeTable(Table):
    """Cells without times, one a layer, for the shapes of all tensors; only the versions as wholes were timed."""

    @property
    def stairs(self) -> Stairs:
        """The block and alignment that whole times speak for."""
        return self._fit.stairs

    def predict_ratio(self, shapes: Shapes) -> float:
        """Predicted time relative to the uncut model's."""
        return self._fit.predict_ratio(shapes)

    def predict_with_error(self, shapes: Shapes) -> tuple[float, float]:
        """Latency in ms, and the relative error that 95% of such predictions stay within, as left-out versions say.

        It grows with how little the measured versions say of these shapes.
        """
        return self.predict(shapes), self._fit.predict_error(shapes)

    def predict_units(self, shapes: Shapes) -> dict[str, float]:
        """The microseconds of the uncut model's time that the fit gives to every layer, by its name."""
        uncut_us = self.latency_ms.median_ms * 1e3
        return {name: share * uncut_us for name, share in self._fit.predict_layers(shapes).items()}

    @cached_property
    def _fit(self) -> WholeFit:
        versions: dict[int, dict[str, tuple[int, ...]]] = {whole.model: {} for whole in self.wholes}
        for cell in self.cells:
            versions[cell.model].update(zip(self.layers.tensors(cell.layers[0]), map(tuple, cell.shapes), strict=True))
        ratios: Floats = np.array([whole.ratio for whole in self.wholes])
        uncut = next((i for i, whole in enumerate(self.wholes) if whole.model == 0), None)
        return fit_wholes(self.layers.proto, list(versions.values()), ratios, uncut)
