"""What `scale` returns: its JSON contract as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from netadapt_onnx.common.resources import Resources
from netadapt_onnx.scaling.options import Method
from netadapt_onnx.scaling.power_law import GroupLaw

# The folder of charts in a run's directory.
PLOTS = "plots"


@dataclass(frozen=True)
class AccuracySpread:
    """Mean and standard deviation of the accuracies `values`, one for each seed; all are fractions, on `split`."""

    mean: float
    std: float
    metric: str
    split: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class ScaledModel:
    """The network for one target. Without data `accuracy` is None, and the weights are not trained.

    `resources.latency_ms` is measured in turn with the original, carefully for a latency target and briefly for other
    trained networks; `latency_ratio` is its share of the original's time, and `latency_ratio_ci95` where that lies.
    """

    target: str
    method: Method
    warmup_epochs: int | None
    resources: Resources
    latency_ratio: float | None
    widths: Mapping[str, int]
    accuracy: AccuracySpread | None
    model: Path | None
    latency_ratio_ci95: tuple[float, float] | None = None


@dataclass(frozen=True)
class OriginalNetwork:
    """The network that was scaled, as it is in its file: what the others are compared with."""

    resources: Resources
    widths: Mapping[str, int]
    accuracy: AccuracySpread | None


@dataclass(frozen=True)
class ScaleResult:
    """`groups` is the law of the last warm-up that was searched; it is empty where the method has no law."""

    groups: tuple[GroupLaw, ...]
    models: tuple[ScaledModel, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    original: OriginalNetwork | None = None
