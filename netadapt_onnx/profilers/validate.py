"""Validates a table's predictions on models it has not seen, measured twice in fresh sessions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from netadapt_onnx.common.progress import Progress, reporter
from netadapt_onnx.profilers.device import Device, Order, measure_on
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import CPU, Execution
from netadapt_onnx.profilers.random_widths import KINDS, Draw, Kind, RandomWidthModel
from netadapt_onnx.profilers.records import REFERENCE
from netadapt_onnx.profilers.statistics import kendall
from netadapt_onnx.profilers.table.arrays import Floats
from netadapt_onnx.profilers.table.build import batch_job, models_per_batch
from netadapt_onnx.profilers.table.file import Shapes
from netadapt_onnx.profilers.table.predict import Table

# Models to predict are drawn by another seed than those of a table.
SEED = 1_000_000
# Fresh sessions per model, more than a table needs, which averages over models; and seconds at most for each model,
# opening them included. With 2 sessions and 2.5 s MobileNetV2 differed from itself by 1.6%, so by 0.7%.
SESSIONS, SECONDS_EACH = 3, 6.0
# A batch in which the uncut model took more than so many times what it took in the quietest one is measured again, so
# many times at most: what slows a machine does not slow all models alike.
OUTLIER, MOST_REPEATS = 1.03, 2


@dataclass(frozen=True)
class KindErrors:
    """The errors of `n` models of one kind, as fractions, and the share of them within the error predicted for it."""

    n: int
    mape: float
    max: float
    covered: float


@dataclass(frozen=True)
class Validation:
    """Predicted against measured times of models that the table has not seen; errors are fractions.

    Attributes:
        n: the number of models.
        mape: the mean error.
        p95: the error that 95% of the models stay within.
        max: the largest error.
        pearson: the correlation of predicted and measured times.
        repeatability: the mean difference of the same models measured again, which no prediction can beat.
        seconds: what validating took.
        kendall: of how many pairs the order is right, less those of which it is wrong (tau-b).
        repeatability_p95: the difference that 95% of the models stay within.
        repeatability_max: the largest difference.
        covered: the share of models within the error that was predicted for them.
        points: predicted and measured ms of each model.
        kinds: the errors by kind of model: as a search meets them, uniform, narrow, of odd counts, one group narrow and
            all others uncut.
    """

    n: int
    mape: float
    p95: float
    max: float
    pearson: float
    repeatability: float
    seconds: float
    kendall: float = 1.0
    repeatability_p95: float = 0.0
    repeatability_max: float = 0.0
    covered: float = 1.0
    points: tuple[tuple[float, float], ...] = ()
    kinds: Mapping[Kind, KindErrors] = field(default_factory=dict)


def unseen(draw: Draw, number: int, seed: int = SEED) -> RandomWidthModel:
    """The model with this number of those that validate a table: kinds take turns."""
    return draw(np.random.default_rng([seed, number]), KINDS[number % len(KINDS)])


def validate(
    table: Table,
    reference: RandomWidthModel,
    draw: Draw,
    n: int = 24,
    *,
    seconds_each: float = SECONDS_EACH,
    progress: Progress | None = None,
    device: Device | None = None,
    execution: Execution = CPU,
) -> Validation:
    """Predict and measure models of all kinds that the table has not seen.

    All are measured twice, in other company and at another time, in fresh sessions and interleaved rounds; those in
    whose rounds the uncut model was slow are measured again.

    Args:
        table: what predicts.
        reference: the uncut model.
        draw: draws the models of other widths.
        n: how many models.
        seconds_each: how long each is measured.
        progress: called with the number of measured batches.
        device: where the models run (None: on this machine).
        execution: how they run: as those of the table do.
    """
    started = time.perf_counter()
    device, progress = device or LocalDevice(), progress or reporter()
    models = [unseen(draw, i) for i in range(n)]
    predicted = np.array([table.predict_ratio(model.shapes) for model in models])
    passes = np.empty((2, n))
    batch_count = -(-n // models_per_batch(reference, SESSIONS))
    orders = [np.random.default_rng([SEED, n, k]).permutation(n) for k in range(2)]
    batches = [(k, batch) for k, order in enumerate(orders) for batch in np.array_split(order, batch_count)]
    reference_ms = np.full(len(batches), np.inf)
    for repeat in range(MOST_REPEATS + 1):
        outliers = [i for i in range(len(batches)) if reference_ms[i] > OUTLIER * reference_ms.min() or not repeat]
        for done, i in enumerate(outliers):
            progress(done, len(outliers), "validating: what was disturbed once more" if repeat else "validating")
            k, batch = batches[i]
            share_s = seconds_each * len(batch) / 2  # of two passes
            ratios, time_ms = _ratios([models[j] for j in batch], reference, share_s, device, execution)
            if time_ms < reference_ms[i]:
                passes[k, batch], reference_ms[i] = ratios, time_ms
    return _compare(predicted, passes, table, [model.shapes for model in models], time.perf_counter() - started)


def _ratios(
    models: Sequence[RandomWidthModel],
    reference: RandomWidthModel,
    seconds: float,
    device: Device,
    execution: Execution,
) -> tuple[Floats, float]:
    """(n,) the time of each model relative to the uncut one's, in fresh sessions, and the uncut one's in ms."""
    protos = {REFERENCE: reference.proto, **{i: model.proto for i, model in enumerate(models)}}
    job = batch_job(range(len(models)), seconds, profiled=False, sessions=SESSIONS)
    records = measure_on(device, Order(protos, reference.inputs(), execution, (job,)))
    times = np.array([np.mean(records[i].ms) for i in range(len(models))])
    references = np.array([np.mean(records[i].reference_ms) for i in range(len(models))])
    return times / references, float(references.mean())


def _compare(predicted: Floats, passes: Floats, table: Table, shapes: Sequence[Shapes], seconds: float) -> Validation:
    """Compare `predicted` (n,) and `passes` (2, n), which are times relative to the uncut model's."""
    measured = passes.mean(0)
    errors = np.abs(predicted / measured - 1)
    repeated = np.abs(passes[1] / passes[0] - 1)
    allowed = np.array([table.predict_with_error(one)[1] for one in shapes])
    covered = errors <= allowed

    def errors_of(turn: int) -> KindErrors:
        own = errors[turn :: len(KINDS)]
        return KindErrors(len(own), float(own.mean()), float(own.max()), float(covered[turn :: len(KINDS)].mean()))

    uncut_ms = table.latency_ms.median_ms
    return Validation(
        len(errors),
        float(errors.mean()),
        float(np.quantile(errors, 0.95)),
        float(errors.max()),
        float(np.corrcoef(predicted, measured)[0, 1]) if len(errors) > 1 else 1.0,
        float(repeated.mean()),
        seconds,
        kendall(predicted, measured),
        float(np.quantile(repeated, 0.95)),
        float(repeated.max()),
        float(covered.mean()),
        tuple((round(p * uncut_ms, 6), round(m * uncut_ms, 6)) for p, m in zip(predicted, measured, strict=True)),
        {kind: errors_of(turn) for turn, kind in enumerate(KINDS[: len(errors)])},
    )
