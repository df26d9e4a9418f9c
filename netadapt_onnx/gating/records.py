"""Data about a model: small, frozen, and readable without onnx."""

from __future__ import annotations

from typing import Annotated

import msgspec

# Of parameters, multiplications, bytes.
Total = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Layer(msgspec.Struct, frozen=True, array_like=True):
    """A node that owns weights or multiplies; a baseline has the first four fields.

    `weights` are their shapes, `dtypes` their element types, `digest` is the hash of their values, where it was wanted.
    """

    name: str
    op: str
    params: Total
    macs: Total | None
    weights: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    digest: str = ""


class Facts(msgspec.Struct, frozen=True):
    """A model's numbers.

    `macs` and `memory_bytes` are None where only a run, or the user, would know a shape, and `unknown` says why.
    `inputs` and `outputs` are types with shapes, dynamic axes by name.
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
    """The measured time of a model.

    Attributes:
        latency_ms: its milliseconds, with the interval of 95%.
        sessions: how many fresh sessions were measured.
        increase: how much longer it takes than the reference, as a fraction with the interval of 99%.
        reference_ms: the reference's milliseconds.
        device: the fingerprint of the device that it ran on.
        note: whether something else had to be timed than the files.
    """

    latency_ms: Interval
    sessions: int
    increase: Interval | None
    reference_ms: Interval | None
    device: dict[str, object]
    note: str = ""


class TablePrediction(msgspec.Struct, frozen=True):
    """The milliseconds that a latency table predicts, and a note."""

    ms: float
    note: str = ""


class Score(msgspec.Struct, frozen=True):
    """An accuracy as a fraction, by its metric and the split of its samples."""

    value: float
    metric: str
    split: str
