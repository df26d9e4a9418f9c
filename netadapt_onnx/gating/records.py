"""What gating keeps of a model: small, frozen, and readable without onnx."""

from __future__ import annotations

import msgspec


class Layer(msgspec.Struct, frozen=True):
    """A node that owns weights or multiplies: `weights` are their shapes, `digest` is of their values, where asked."""

    name: str
    op: str
    params: int
    macs: int | None
    weights: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    digest: str = ""


class Facts(msgspec.Struct, frozen=True):
    """A model's numbers. `macs` and `memory_bytes` are None where only a run, or the user, would know a shape.

    `unknown` says why. `inputs` and `outputs` are types with shapes, dynamic axes by name.
    """

    sha256: str
    size_bytes: int
    params: int
    macs: int | None
    memory_bytes: int | None
    unknown: str
    opset: dict[str, int]
    inputs: dict[str, str]
    outputs: dict[str, str]
    metadata: dict[str, str]
    layers: tuple[Layer, ...]


class Interval(msgspec.Struct, frozen=True):
    """A median with its interval."""

    median: float
    low: float
    high: float


class TimingResult(msgspec.Struct, frozen=True):
    """Milliseconds of a model (95%) and, against a reference, how much longer it takes as a fraction (99%).

    `device` is the fingerprint of what it ran on; `note` says where something else had to be timed than the files.
    """

    latency_ms: Interval
    sessions: int
    increase: Interval | None
    reference_ms: Interval | None
    device: dict[str, object]
    note: str = ""


class TablePrediction(msgspec.Struct, frozen=True):
    """The milliseconds that a latency table predicts, and what to know of them."""

    ms: float
    note: str = ""


class Score(msgspec.Struct, frozen=True):
    """An accuracy as a fraction; `metric` says of what, `split` of which samples."""

    value: float
    metric: str
    split: str
