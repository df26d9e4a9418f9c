"""Runs a model: times it and scores it. Nothing does unless a latency or an accuracy is limited."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from netadapt_onnx.data.evaluate import accuracy, outputs
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.errors import NetadaptError, invalid_data
from netadapt_onnx.gating.jobs import DeviceJob, PredictJob, ScoreJob, TimeJob
from netadapt_onnx.gating.records import Interval, Score, TablePrediction, TimingResult
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.model import Model, load
from netadapt_onnx.graph.original_file import as_given, runs_as_given
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.graph.shapes import Specs
from netadapt_onnx.profilers.devices.opening import LOCAL, open_device
from netadapt_onnx.profilers.execution import Execution, Fingerprint, fingerprint
from netadapt_onnx.profilers.statistics import Timing
from netadapt_onnx.profilers.timing import TimingPlan, measure, ratio

# Fresh sessions of one model differ by some 2%: with this many a side a difference of 3% shows.
SESSIONS = 20
# Of the interval that decides whether a model became slower, in two measurements: a gate is asked on every push.
CONFIDENCE = 0.99


def describe_device(job: DeviceJob) -> Fingerprint:
    """The fingerprint of this machine."""
    return fingerprint(Execution(job.ep, job.threads))


def time_model(job: TimeJob) -> TimingResult:
    """Time a model. Raises NetadaptError if it cannot run, or the reference takes other inputs."""
    model, specs, note = _original(job.path, job)
    reference, others, also = (None, specs, "") if job.reference is None else _original(job.reference, job)
    note = "; ".join(filter(None, [note, also]))
    if others != specs:
        raise NetadaptError("the baseline takes other inputs: their times do not compare", code="incomparable")
    execution, inputs = Execution(job.ep, job.threads), random_inputs(specs)
    plan = TimingPlan(sessions=SESSIONS, time_cap_s=job.time_cap_s)
    with open_device(job.address or LOCAL, purpose=job.path) as device:
        identity = fingerprint(execution, device.describe())
        if reference is None:
            [timing] = measure([model], inputs, execution, plan, device=device)
            return TimingResult(_interval(timing), timing.sessions, None, None, identity, note)
        plan = replace(plan, precision=0.003, undisturbed=True, confidence=CONFIDENCE)
        comparison = ratio(model, reference, inputs, execution, plan, device=device)
    low, high = comparison.ci95
    return TimingResult(
        _interval(comparison.model),
        comparison.model.sessions,
        Interval(comparison.median - 1, low - 1, high - 1),
        _interval(comparison.reference),
        identity,
        note,
    )


def predict_latency(job: PredictJob) -> TablePrediction:
    """Predict a model's latency by a latency table."""
    from netadapt_onnx.profilers.table.original_time import predict_original
    from netadapt_onnx.profilers.table.predict import Table

    model, folded = _load(job)
    table = Table.load(Path(job.table), folded.proto)
    prediction = predict_original(table, as_given(model, folded.proto), folded.shapes)
    return TablePrediction(prediction.ms, prediction.note)


def score_model(job: ScoreJob) -> Score:
    """Score a model's accuracy on held-out data, which are arrays: code is never run."""
    if not (job.data.path.endswith(".npz") or Path(job.data.path).is_dir()):
        raise invalid_data(f"{job.data}: gate reads data from .npz files and folders only", "save it as .npz")
    model, folded = _load(job)
    samples = load_dataset(folded, job.data, train=False).split(job.split)
    reference = None
    if samples.labels is None:
        if job.reference is None:
            raise invalid_data(
                f"{job.data} has no labels and there is no baseline model to agree with",
                "add y_val, or give --baseline FILE.onnx or git:REV",
            )
        reference = outputs(load(job.reference).proto, samples, threads=job.threads)
    score = accuracy(model.proto, samples, reference=reference, threads=job.threads)
    return Score(score.value, score.metric, job.split)


def _original(path: str, job: TimeJob) -> tuple[onnx.ModelProto, Specs, str]:
    """A file as it is and the specs of its inputs; where it cannot run its normalised form, and a note."""
    model = load(path)
    specs = fold(model.proto, dict(job.shapes), job.batch_size).specs
    proto, note = runs_as_given(model)
    return proto, specs, note


def _load(job: PredictJob | ScoreJob) -> tuple[Model, FoldedModel]:
    model = load(job.path)
    return model, fold(model.proto, dict(job.shapes), job.batch_size)


def _interval(timing: Timing) -> Interval:
    return Interval(timing.median_ms, *timing.ci95)
