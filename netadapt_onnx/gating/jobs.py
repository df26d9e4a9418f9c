"""What is asked of the process that reads models (`sandbox.py`) and what it answers: plain data."""

from __future__ import annotations

from typing import Literal

import msgspec

from netadapt_onnx.data.source import DataSource

Shapes = dict[str, tuple[int, ...]]


class CountJob(msgspec.Struct, frozen=True, tag="count"):
    """A request to read and count a model: gives `Facts`."""

    path: str
    shapes: Shapes = {}
    batch_size: int = 1
    digests: bool = False


class LocateJob(msgspec.Struct, frozen=True, tag="locate"):
    """A question where a model keeps its external data: gives a list of relative paths."""

    path: str


class LayersJob(msgspec.Struct, frozen=True, tag="layers"):
    """A question how a model's layers are connected: gives `LayerGraph`."""

    path: str
    shapes: Shapes = {}
    batch_size: int = 1


class TimeJob(msgspec.Struct, frozen=True, tag="time"):
    """A request to time a model on random inputs, in turn with `reference` if there is one: gives `TimingResult`.

    `address` is a device's, None for this machine.
    """

    path: str
    reference: str | None
    shapes: Shapes
    batch_size: int
    ep: str
    threads: int
    address: str | None
    time_cap_s: float


class PredictJob(msgspec.Struct, frozen=True, tag="predict"):
    """A request to predict a model's latency by a table: gives `TablePrediction`."""

    path: str
    table: str
    shapes: Shapes
    batch_size: int


class ScoreJob(msgspec.Struct, frozen=True, tag="score"):
    """A request to score a model on data; without labels its agreement with `reference`: gives `Score`."""

    path: str
    data: DataSource
    split: Literal["val", "test"]
    reference: str | None
    shapes: Shapes
    batch_size: int
    threads: int


class DeviceJob(msgspec.Struct, frozen=True, tag="device"):
    """A question what this machine is: gives a fingerprint."""

    ep: str
    threads: int


Job = CountJob | LocateJob | LayersJob | DeviceJob | TimeJob | PredictJob | ScoreJob


class Request(msgspec.Struct, frozen=True):
    """A job and the folder that its paths start from, so that messages show them as the user wrote them."""

    job: Job
    folder: str


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """The reason why a job could not be done."""

    message: str
    hint: str = ""
    code: str = "invalid"


class Success(msgspec.Struct, frozen=True, tag="success"):
    """The result of a job, still as JSON."""

    value: msgspec.Raw
