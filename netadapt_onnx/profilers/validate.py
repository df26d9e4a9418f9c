"""Whether a table's predictions hold: versions it has not seen, measured twice in fresh sessions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from netadapt_onnx.common.progress import Progress
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.profilers.device import REFERENCE, Device, Order, measure_on
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import CPU, Execution
from netadapt_onnx.profilers.random_widths import KINDS, Draw, Kind, RandomWidthModel
from netadapt_onnx.profilers.table.build import batch_job, together
from netadapt_onnx.profilers.table.kernel_fit import Floats
from netadapt_onnx.profilers.table.predict import Shapes, Table

# Versions to predict are drawn by another seed than those of a table.
SEED = 1_000_000
# Fresh sessions per version, more than a table needs, which averages over versions; and seconds at most for each
# version, opening them included. With 2 sessions and 2.5 s MobileNetV2 differed from itself by 1.6%, so by 0.7%.
SESSIONS, SECONDS_EACH = 3, 6.0
# A batch in which the uncut model took more than so much of its time in the calmest one is measured again, so many
# times at most: what slows a machine does not slow all models alike.
DISTURBED, MOST_AGAIN = 1.03, 2


@dataclass(frozen=True)
class KindErrors:
    """The errors of `n` versions of one kind, as fractions, and the share of them within the error predicted for it."""

    n: int
    mape: float
    max: float
    covered: float


@dataclass(frozen=True)
class Validation:
    """Predicted against measured on `n` versions that the table has not seen; errors are fractions.

    `repeatability`: mean difference of the same versions measured again, the floor of any prediction;
    `repeatability_p95` and `repeatability_max` likewise. `kendall`: of how many pairs the order is right, less those of
    which it is wrong (tau-b). `covered`: the share within the error that was predicted. `points`: predicted and
    measured ms of each. `kinds`: the errors by kind of version: as a search meets them, uniform, narrow, of odd counts,
    one group narrow and the rest whole.
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
    """The version with this number of those that validate a table: kinds take turns."""
    return draw(np.random.default_rng([seed, number]), KINDS[number % len(KINDS)])


def validate(
    table: Table,
    reference: RandomWidthModel,
    draw: Draw,
    n: int = 24,
    *,
    seed: int = SEED,
    seconds_each: float = SECONDS_EACH,
    progress: Progress | None = None,
    device: Device | None = None,
    execution: Execution = CPU,
) -> Validation:
    """Measure `n` versions that the table has not seen, of all kinds, and compare; `execution` is that of the table.

    All are measured twice, in other company and at another time, in fresh sessions and interleaved rounds; those beside
    which the uncut model was slow are measured again.
    """
    started = time.perf_counter()
    device = device or LocalDevice()
    inputs = reference.inputs()
    versions = [unseen(draw, i, seed) for i in range(n)]
    predicted = np.array([table.predict_ratio(version.shapes) for version in versions])
    passes = np.empty((2, n))
    batches = -(-n // together(reference, SESSIONS))
    orders = [np.random.default_rng([seed, n, k]).permutation(n) for k in range(2)]
    todo = [(k, batch) for k, order in enumerate(orders) for batch in np.array_split(order, batches)]
    times = np.full(len(todo), np.inf)
    for again in range(MOST_AGAIN + 1):
        disturbed = [i for i in range(len(todo)) if times[i] > DISTURBED * times.min() or not again]
        for done, i in enumerate(disturbed):
            if progress:
                progress(done, len(disturbed), "validating: what was disturbed once more" if again else "validating")
            k, batch = todo[i]
            share_s = seconds_each * len(batch) / 2
            ratios, time_ms = _ratios([versions[j] for j in batch], reference, inputs, execution, device, share_s)
            if time_ms < times[i]:
                passes[k, batch], times[i] = ratios, time_ms
    return _compared(predicted, passes, table, [v.shapes for v in versions], time.perf_counter() - started)


def _compared(predicted: Floats, passes: Floats, table: Table, shapes: Sequence[Shapes], seconds: float) -> Validation:
    """`predicted` (n,) and `passes` (2, n) are times relative to the uncut model's."""
    measured = passes.mean(0)
    errors = np.abs(predicted / measured - 1)
    repeated = np.abs(passes[1] / passes[0] - 1)
    allowed = np.array([table.predict_with_error(version)[1] for version in shapes])
    covered = errors <= allowed
    turns = {kind: slice(turn, None, len(KINDS)) for turn, kind in enumerate(KINDS) if turn < len(errors)}
    whole = table.latency_ms.median_ms
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
        tuple((round(p * whole, 6), round(m * whole, 6)) for p, m in zip(predicted, measured, strict=True)),
        {
            kind: KindErrors(
                len(errors[turn]), float(errors[turn].mean()), float(errors[turn].max()), float(covered[turn].mean())
            )
            for kind, turn in turns.items()
        },
    )


def kendall(a: Floats, b: Floats) -> float:
    """Rank correlation tau-b (Kendall 1945): 1 for the same order, -1 for the opposite; ties count as neither."""
    i, j = np.triu_indices(len(a), 1)
    x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
    pairs = float(np.sqrt((x != 0).sum() * (y != 0).sum()))
    return float((x * y).sum() / pairs) if pairs else 1.0


def _ratios(
    versions: Sequence[RandomWidthModel],
    reference: RandomWidthModel,
    inputs: Arrays,
    execution: Execution,
    device: Device,
    share_s: float,
) -> tuple[Floats, float]:
    """Time of each version relative to the reference's, in fresh sessions, and the reference's in ms."""
    models = {REFERENCE: reference.proto, **{i: v.proto for i, v in enumerate(versions)}}
    job = batch_job(range(len(versions)), share_s, profiled=False, sessions=SESSIONS)
    found = measure_on(device, Order(models, inputs, execution, (job,)))
    ratios = [np.mean(found[i].ms) / np.mean(found[i].reference_ms) for i in range(len(versions))]
    return np.array(ratios), float(np.mean([np.mean(found[i].reference_ms) for i in range(len(versions))]))
