"""A latency table of one device: what it holds, and the latency it predicts for widths that were not measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx

from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.execution import Fingerprint
from netadapt_onnx.profilers.statistics import Disturbance, Ratio, Timing
from netadapt_onnx.profilers.table.file import (
    Cell,
    EndToEndTime,
    Header,
    Reference,
    Shapes,
    build_disturbance,
    check,
    header_of_file,
    read,
    reference_of_file,
)
from netadapt_onnx.profilers.table.kernel_predictor import KernelPredictor
from netadapt_onnx.profilers.table.staircase import Staircase
from netadapt_onnx.profilers.table.whole_model_fit import WholeModelFit, fit_end_to_end
from netadapt_onnx.profilers.units import Layers, Unit, family

_REBUILD = "build it again with `profile`"
# A model is measured precisely if the 95% interval of its median is no wider than this share of it.
PRECISE = 0.01


@dataclass(frozen=True)
class Table:
    """What was measured on one device of models of one family.

    Attributes:
        path: the file.
        header: its first line.
        cells: the kernels, or the layers, of the measured models.
        end_to_end: the times of these models as wholes.
        reference: the uncut model's own time; the last line.
        layers: the layers of the model that the table was loaded for.
    """

    path: Path
    header: Header
    cells: tuple[Cell, ...]
    end_to_end: tuple[EndToEndTime, ...]
    reference: Reference
    layers: Layers

    @classmethod
    def load(cls, path: Path, proto: onnx.ModelProto, *, device: Fingerprint | None = None) -> Table:
        """Read a complete table for a model.

        Args:
            path: the table's file.
            proto: the model, cut or not.
            device: the fingerprint that the table must have (None: any).

        Raises:
            NetadaptError: the file is no table, a line is corrupt, nothing was measured, the table is unfinished, or of
                another model family or device; the last two name what differs.
        """
        if not path.is_file():
            raise missing_file(path)
        records = read(path)
        header = header_of_file(path, records)
        check(path, header, family(proto), device)
        end_to_end = {r.model: r for r in records if isinstance(r, EndToEndTime)}
        cells = tuple(r for r in records if isinstance(r, Cell) and r.model in end_to_end)
        layers = Layers(proto)
        wrong = layers.contradiction((cell.layers, cell.shapes) for cell in cells)
        if wrong is not None:
            raise NetadaptError(f"{path} has {wrong}", hint=_REBUILD, code="table")
        if not cells:
            raise NetadaptError(f"{path} holds no measured cell", hint=_REBUILD, code="table")
        reference = reference_of_file(path, records)
        return cls(path, header, cells, tuple(end_to_end.values()), reference, layers)

    @cached_property
    def predictor(self) -> KernelPredictor | WholeModelFit:
        """The sum of kernels' times where the provider shows those, otherwise a fit to whole models' times."""
        if all(cell.us is None for cell in self.cells):
            return fit_end_to_end(self.cells, self.end_to_end, self.layers, self.latency_ms.median_ms)
        return KernelPredictor(self.cells, self.end_to_end, self.layers, self.units, self.header.models)

    @property
    def truncated(self) -> bool:
        """Whether the file's last line is cut off: then it was left out."""
        return not self.path.read_bytes().endswith(b"\n")

    @property
    def device(self) -> Fingerprint:
        """The fingerprint of the device that the table is valid for."""
        return self.header.device

    @property
    def latency_ms(self) -> Timing:
        """The uncut model's measured latency."""
        return Timing(self.reference.median_ms, self.reference.ci95, self.reference.sessions)

    def original_ratio(self, sha256: str) -> Ratio | None:
        """The uncut model's time relative to that of the file with this hash, as given; None if it was not measured."""
        original = self.reference.as_given
        return original.ratio if original is not None and original.sha256 == sha256 else None

    @property
    def seconds(self) -> float:
        """The seconds that building took, over all resumes."""
        return sum(time.seconds for time in self.end_to_end) + self.reference.seconds

    @property
    def drift(self) -> float:
        """By how much the device changed speed while the table was built: slowest over fastest batch, less 1.

        It is the drift of the uncut model, which takes its turn in every round, and it is taken out of all times.
        """
        speeds = [time.reference_us or time.mean_reference_ms for time in self.end_to_end]
        return max(speeds) / min(speeds) - 1

    @property
    def disturbance(self) -> Disturbance:
        """How disturbed the device was while the table was built."""
        return build_disturbance(self.end_to_end)

    @property
    def notes(self) -> tuple[str, ...]:
        """Cautions for users of this table."""
        return (self.disturbance.caution(f"{self.path}"),) if self.disturbance.busy else ()

    @property
    def precise(self) -> int:
        """How many models' medians were known to 1% (their 95% interval's width) before a cap ended their rounds."""
        return sum(time.interval <= PRECISE for time in self.end_to_end)

    @property
    def staircase(self) -> Staircase:
        """The device's channel block and alignment: widths off the alignment run slower."""
        return self.predictor.staircase

    @cached_property
    def units(self) -> dict[str, Unit]:
        """The unit of every layer."""
        return self.layers.units(dict.fromkeys(tuple(cell.layers) for cell in self.cells))

    def predict(self, shapes: Shapes) -> float:
        """Predicted latency in ms of the model whose tensors have these shapes."""
        return self.latency_ms.median_ms * self.predict_ratio(shapes)

    def predict_ratio(self, shapes: Shapes) -> float:
        """Predicted time relative to the uncut model's."""
        return self.predictor.predict_ratio(shapes)

    def predict_with_error(self, shapes: Shapes) -> tuple[float, float]:
        """Predicted latency in ms, and the relative error that 95% of such predictions stay within."""
        return self.predict(shapes), self.predictor.predict_error(shapes)

    def predict_units(self, shapes: Shapes) -> dict[str, float]:
        """Predicted microseconds of every unit by its main layer's name."""
        return self.predictor.predict_units(shapes)
