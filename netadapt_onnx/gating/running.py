"""The jobs that run a model, which nothing does unless a latency or an accuracy is limited."""

from __future__ import annotations

from pathlib import Path

import onnx

from netadapt_onnx.data.dataset import held_out
from netadapt_onnx.data.evaluate import accuracy, outputs
from netadapt_onnx.data.load import dataset_for
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.jobs import DeviceJob, PredictJob, ScoreJob, TimeJob
from netadapt_onnx.gating.records import Interval, Predicted, Score, Timed
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.model import Model, load
from netadapt_onnx.graph.original_file import as_given, runs_as_given
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.graph.shapes import Specs
from netadapt_onnx.profilers.devices.opening import LOCAL, opened_device
from netadapt_onnx.profilers.execution import Execution, Fingerprint, fingerprint
from netadapt_onnx.profilers.timing import Timing, measure, ratio

# Fresh sessions of one model differ by some 2%: with this many a side a difference of 3% shows.
SESSIONS = 20
# Of the interval that decides whether a model became slower, in two measurements: a gate is asked on every push.
CONFIDENCE = 0.99


def device(job: DeviceJob) -> Fingerprint:
    """What this machine is."""
    return fingerprint(Execution(job.ep, job.threads))


def timed(job: TimeJob) -> Timed:
    """Time a model. Raises NetadaptError if it cannot run, or the reference takes other inputs."""
    model, specs, note = _as_given(job.path, job)
    reference, others, also = (None, specs, "") if job.reference is None else _as_given(job.reference, job)
    note = "; ".join(filter(None, [note, also]))
    if others != specs:
        raise NetadaptError("the baseline takes other inputs: their times do not compare", code="incomparable")
    execution = Execution(job.ep, job.threads)
    inputs = random_inputs(specs)
    with opened_device(job.address or LOCAL, purpose=job.path) as place:
        identity = fingerprint(execution, place.describe())
        if reference is None:
            (found,) = measure([model], inputs, execution, sessions=SESSIONS, time_cap_s=job.time_cap_s, device=place)
            return Timed(_interval(found), found.sessions, None, None, identity, note)
        compared = ratio(
            model,
            reference,
            inputs,
            execution,
            sessions=SESSIONS,
            time_cap_s=job.time_cap_s,
            precision=0.003,
            undisturbed=True,
            confidence=CONFIDENCE,
            device=place,
        )
    low, high = compared.ci95
    return Timed(
        _interval(compared.model),
        compared.model.sessions,
        Interval(compared.median - 1, low - 1, high - 1),
        _interval(compared.reference),
        identity,
        note,
    )


def predicted(job: PredictJob) -> Predicted:
    """What a latency table says of a model."""
    from netadapt_onnx.profilers.table import original_time
    from netadapt_onnx.profilers.table.predict import Table

    model, folded = _loaded(job)
    table = Table.load(Path(job.table), folded.proto)
    said = original_time.predicted(table, as_given(model, folded.proto), folded.shapes)
    return Predicted(said.ms, said.note)


def scored(job: ScoreJob) -> Score:
    """A model's accuracy on held-out data, which are arrays: code is never run."""
    if not (job.data.path.endswith(".npz") or Path(job.data.path).is_dir()):
        raise NetadaptError(
            f"{job.data}: gate reads data from .npz files and folders only", hint="save it as .npz", code="invalid-data"
        )
    model, folded = _loaded(job)
    samples = held_out(dataset_for(folded, job.data, train=False), job.split)
    reference = None
    if samples.labels is None:
        if job.reference is None:
            raise NetadaptError(
                f"{job.data} has no labels and there is no baseline model to agree with",
                hint="add y_val, or give --baseline FILE.onnx or git:REV",
                code="invalid-data",
            )
        reference = outputs(load(job.reference).proto, samples, threads=job.threads)
    found = accuracy(model.proto, samples, reference=reference, threads=job.threads)
    return Score(found.value, found.metric, job.split)


def _as_given(path: str, job: TimeJob) -> tuple[onnx.ModelProto, Specs, str]:
    """A file as it is, to be timed, and what it is fed; its normalised form where it cannot be run, and a note."""
    model = load(path)
    specs = fold(model.proto, dict(job.shapes), job.batch_size).specs
    proto, note = runs_as_given(model)
    return proto, specs, note


def _loaded(job: PredictJob | ScoreJob) -> tuple[Model, FoldedModel]:
    model = load(job.path)
    return model, fold(model.proto, dict(job.shapes), job.batch_size)


def _interval(timing: Timing) -> Interval:
    return Interval(timing.median_ms, *timing.ci95)
