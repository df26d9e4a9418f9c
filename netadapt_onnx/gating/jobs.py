"""What is done with a model in a process of its own (`sandbox.py`): the jobs, and how each is done."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from netadapt_onnx.data.source import DataSource

Shapes = dict[str, tuple[int, ...]]


class CountJob(msgspec.Struct, frozen=True, tag="count"):
    """Read and count a model: gives `Facts`."""

    path: str
    shapes: Shapes = {}
    batch_size: int = 1
    digests: bool = False


class LocateJob(msgspec.Struct, frozen=True, tag="locate"):
    """Where a model says that its external data are: gives a list of relative paths."""

    path: str


class TimeJob(msgspec.Struct, frozen=True, tag="time"):
    """Run a model on random inputs to time it, against `reference` in turn if there is one: gives `Timed`.

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
    """What a latency table says of a model: gives `Predicted`."""

    path: str
    table: str
    shapes: Shapes
    batch_size: int


class ScoreJob(msgspec.Struct, frozen=True, tag="score"):
    """A model's accuracy on data; without labels its agreement with `reference`: gives `Score`."""

    path: str
    data: DataSource
    split: Literal["val", "test"]
    reference: str | None
    shapes: Shapes
    batch_size: int
    threads: int


class DeviceJob(msgspec.Struct, frozen=True, tag="device"):
    """What this machine is: gives a fingerprint."""

    ep: str
    threads: int


Job = CountJob | LocateJob | DeviceJob | TimeJob | PredictJob | ScoreJob


class Request(msgspec.Struct, frozen=True):
    """A job and the folder that its paths start from, so that messages show them as the user wrote them."""

    job: Job
    folder: str


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """Why a job could not be done."""

    message: str
    hint: str = ""
    code: str = "invalid"


class Success(msgspec.Struct, frozen=True, tag="success"):
    """What a job gave, still as JSON."""

    value: msgspec.Raw


def perform(job: Job, memory_bytes: int) -> object:
    """Do a job in a process that may take so much memory.

    Raises NetadaptError, or whatever a broken model makes libraries raise.
    """
    if isinstance(job, CountJob):
        from netadapt_onnx.gating.facts import read_facts

        return read_facts(job.path, job.shapes, job.batch_size, digests=job.digests, largest_bytes=memory_bytes)
    if isinstance(job, LocateJob):
        from netadapt_onnx.gating.facts import locate

        return locate(Path(job.path))
    from netadapt_onnx.gating import running

    if isinstance(job, DeviceJob):
        return running.device(job)
    if isinstance(job, TimeJob):
        return running.timed(job)
    return running.predicted(job) if isinstance(job, PredictJob) else running.scored(job)
