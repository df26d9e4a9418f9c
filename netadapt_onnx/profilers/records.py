"""What is sent to a device and what comes back: a manifest that says how to measure, and records of JSON.

`agent.py` reads the one and writes the other, without these classes.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Annotated, Any, Literal

import msgspec

from netadapt_onnx.common.escape import escape
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.checked_values import (
    Celsius,
    Count,
    ModelNumber,
    Ms,
    Number,
    Processors,
    Seconds,
    Sessions,
    Text,
    Us,
    Width,
    check_environment,
)
from netadapt_onnx.profilers.packing import unpack_graph

SCHEMA = agent.SCHEMA
# The number of the model with which all others of a job are compared.
REFERENCE = -1

Environment = dict[str, Any]
Until = Literal["interval", "each", "ratio", "undisturbed"]


class Job(msgspec.Struct, frozen=True):
    """Models that are measured together, in rounds that every session takes its turn in.

    Attributes:
        models: the models' numbers.
        reference: the number of the model that they are compared with, if any.
        profiled: whether each also runs in a session with the profiler on.
        sessions: how many fresh sessions each gets.
        until: what has to be precise for the job to end (see `agent.py`).
        precision: how precise, as a share.
        rounds: the least and the most rounds.
        seconds: how long it may take; None for its share of the manifest's time.
        seed: the seed of the order of turns.
        shard: the share of a bundle that the job belongs to; None for all of them.
        anchors: as many more sessions of the reference for each session of the others.
        needed: whether it is measured, in the least rounds, even if its share of the manifest's time is used up.
    """

    models: Annotated[tuple[ModelNumber, ...], msgspec.Meta(min_length=1)]
    reference: int | None
    profiled: bool
    sessions: Count
    until: Until
    precision: float
    rounds: tuple[int, int | None]
    seconds: float | None
    seed: int = 0
    shard: int | None = None
    anchors: Number = 0
    needed: bool = False

    def contradiction(self, record: MeasuredModel | FailedModel) -> str | None:
        """What a record says that an answer to this job cannot say, beginning with the field; None if nothing."""
        if record.model not in self.models:
            return f"model: {record.model} was not asked for"
        if isinstance(record, FailedModel):
            return None
        sessions, reference_count = len(record.ms), len(record.reference_ms)
        if sessions > self.sessions:
            return f"ms: {sessions} sessions, and {self.sessions} were asked for"
        if reference_count not in ((0,) if self.reference is None else (sessions, sessions * (1 + self.anchors))):
            return f"reference_ms: {reference_count} sessions beside {sessions} of the model"
        if self.profiled and not (record.optimised and (self.reference is None or record.reference_us)):
            return "optimised, reference_us: the times of kernels are missing"
        if sum(record.median_ms) > 1100 * (record.seconds + 0.001) * len(self.models):
            return f"seconds: {record.seconds:g}, too few for a sum of {sum(record.median_ms):g} in median_ms"
        return None


class ModelFile(msgspec.Struct, frozen=True):
    """A model in the folder of a manifest, with the hash of its content."""

    file: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """All that a device needs to know.

    Attributes:
        schema: the format's version.
        execution: how models run (`execution.execution_record`).
        inputs: the file of the inputs.
        models: the models' files by number as text.
        jobs: what is measured.
        seconds: how long all jobs together may take that have no time of their own.
        about: what the device sends back as it is.
        answers: the models whose outputs are wanted, for `inputs` of several batches each.
    """

    schema: int
    execution: dict[str, Any]
    inputs: str
    models: dict[str, ModelFile]
    jobs: tuple[Job, ...]
    seconds: float = 0.0
    about: dict[str, Any] = {}
    answers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a manifest of another format."""
        if self.schema != SCHEMA:
            raise ValueError(f"schema: format {self.schema}, and this version reads {SCHEMA}")


class ManifestRecord(msgspec.Struct, frozen=True, tag_field="record", tag="manifest"):
    """The first record of results: the manifest that they answer."""

    manifest: Manifest


class EnvironmentRecord(msgspec.Struct, frozen=True, tag_field="record", tag="environment"):
    """The device on which the records that follow were measured."""

    environment: Environment

    def __post_init__(self) -> None:
        """Raise ValueError if the environment lacks what a fingerprint needs."""
        msgspec.structs.force_setattr(self, "environment", check_environment(self.environment))


class MeasuredModel(msgspec.Struct, frozen=True, tag_field="record", tag="measured"):
    """The times of one model, and of the reference in the same rounds.

    Attributes:
        job: the index of the job.
        model: the model's number.
        rounds: how often every session ran.
        seconds: what measuring took.
        ms: milliseconds of each fresh session's fastest runs.
        median_ms: each session's median.
        reference_ms: the fastest runs of the reference's sessions.
        reference_median_ms: their medians.
        reference_us: of profiled jobs, the sum of the reference's kernels.
        optimised: of profiled jobs, the graph that really ran (zlib, base64).
        us: of profiled jobs, the microseconds of each of its nodes.
        placement: how many nodes each provider ran.
        interval: the width of the 95% interval of a session's median relative to it; that of the widest session.
        temperature_c: the device's temperature before and after.
        throttled: whether the device was slowed down by its heat meanwhile.
        others: how many processors, of `cores`, other processes kept busy; None where the system does not say.
        cores: how many processors there are.
    """

    job: Number
    model: ModelNumber
    rounds: Count
    seconds: Seconds
    ms: Sessions
    median_ms: Sessions
    reference_ms: list[Ms] = []
    reference_median_ms: list[Ms] = []
    reference_us: Us = 0.0
    optimised: str = ""
    us: dict[str, Us] = {}
    placement: dict[Text, Number] = {}
    interval: Width = 0.0
    temperature_c: tuple[Celsius | None, Celsius | None] = (None, None)
    throttled: bool = False
    others: Processors | None = None
    cores: Count | None = None

    def __post_init__(self) -> None:
        """Raise ValueError, naming the field, where fields contradict each other or hold no graph."""
        for one, other in (("ms", "median_ms"), ("reference_ms", "reference_median_ms")):
            fastest, middle = getattr(self, one), getattr(self, other)
            if len(fastest) != len(middle):
                raise ValueError(f"{other}: {len(middle)} sessions, and {len(fastest)} in {one}")
            if any(fast > 1.001 * median + 1e-5 for fast, median in zip(fastest, middle, strict=True)):
                raise ValueError(f"{other}: less than in {one}, the fastest runs")
        if self.optimised:
            try:
                unpack_graph(self.optimised)
            except ValueError as error:
                raise ValueError(f"optimised: {error}") from error


class FailedModel(msgspec.Struct, frozen=True, tag_field="record", tag="failed"):
    """A model that the device could not run, and onnxruntime's reason."""

    job: Number
    model: ModelNumber
    error: Text

    def __post_init__(self) -> None:
        """Escape the text, which may hold names of a model's nodes."""
        msgspec.structs.force_setattr(self, "error", escape(self.error))


class OutputsFile(msgspec.Struct, frozen=True, tag_field="record", tag="answered"):
    """The outputs of a model that a device computed: a file of arrays, in the order of the outputs' names."""

    model: int
    file: str
    names: list[str]


class End(msgspec.Struct, frozen=True, tag_field="record", tag="end"):
    """The last record: all was measured, or time was up."""

    stopped: Text

    def __post_init__(self) -> None:
        """Escape the text, which is shown."""
        msgspec.structs.force_setattr(self, "stopped", escape(self.stopped))


AgentRecord = ManifestRecord | EnvironmentRecord | MeasuredModel | FailedModel | OutputsFile | End
_DECODER = msgspec.json.Decoder(AgentRecord)


def contradiction(
    record: MeasuredModel | FailedModel, jobs: Sequence[Job], earlier: Container[tuple[int, int]]
) -> str | None:
    """What a record says that an answer to these jobs cannot say, beginning with the field; None if nothing.

    `earlier`: the jobs and models that have a record already.
    """
    if record.job >= len(jobs):
        return f"job: {record.job} was not asked for"
    if (record.job, record.model) in earlier:
        return f"model: {record.model} of job {record.job} has a record already"
    return jobs[record.job].contradiction(record)


def decode_record(line: bytes, where: str, hint: str = "") -> AgentRecord:
    """Decode one record.

    Args:
        line: its JSON.
        where: where it stands, for the error.
        hint: what users can do about an error.

    Raises:
        NetadaptError: the line is no record, or one that cannot be true; the error names the field.
    """
    try:
        record: AgentRecord = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NetadaptError(f"{where}: {error}", hint=hint, code="results") from error
    return record
