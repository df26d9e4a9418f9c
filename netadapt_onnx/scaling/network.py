"""The network whose widths are scaled: its groups, their allowed widths, its size and its models at other widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx

from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import Model
from netadapt_onnx.profilers.units import family
from netadapt_onnx.scaling.target_widths import AllowedWidths, Widths, allowed_widths
from netadapt_onnx.search.predictor import Predictor
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.trace import trace as traced


@dataclass(frozen=True)
class ScalableNetwork:
    """A traced model with at least one prunable group; `source` is the file it was read from."""

    source: Model
    trace: Trace

    @cached_property
    def allowed(self) -> Mapping[str, AllowedWidths]:
        """The widths that each group may have by its structure alone."""
        return allowed_widths(self.trace.prunable)

    @property
    def widths(self) -> Widths:
        """The original's widths."""
        return {name: allowed.channels for name, allowed in self.allowed.items()}

    @property
    def family(self) -> str:
        """The hash of the graph without its widths."""
        return family(self.trace.folded.proto)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs."""
        return {name: shape for name, (shape, _) in self.trace.folded.specs.items()}

    def params(self, widths: Mapping[str, int]) -> float:
        """The number of parameters at these widths."""
        return self._predict(dict(widths))["params"]

    def at(self, widths: Mapping[str, int]) -> onnx.ModelProto:
        """The model at these widths: filters that remain keep their weights, those of new ones are drawn."""
        return resize(self.trace, select(self.trace, widths))

    def traced(self, proto: onnx.ModelProto) -> Trace:
        """The trace of this network with other weights or widths."""
        return traced(fold(proto, self.shapes))

    @cached_property
    def _predict(self) -> Predictor:
        return Predictor(self.trace)
