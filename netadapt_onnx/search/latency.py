"""Latency in a search: the table proposes, the device decides; measurements are journalled before they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import onnx

from netadapt_onnx.as_given import AsGiven
from netadapt_onnx.profilers.build import build
from netadapt_onnx.profilers.measuring import Device, Environment
from netadapt_onnx.profilers.session import Execution, fingerprint
from netadapt_onnx.profilers.table import Table
from netadapt_onnx.profilers.timing import Ratio, Timing, pooled, ratio
from netadapt_onnx.profilers.versions import Variant, random_versions
from netadapt_onnx.runtime import random_inputs
from netadapt_onnx.search.budget import LATENCY, Budget
from netadapt_onnx.search.normalising import Measured, Normalising, Recorded
from netadapt_onnx.search.result import Latency
from netadapt_onnx.search.run import Run
from netadapt_onnx.surgery import Trace

TABLE_FILE = "table.jsonl"
# An accepted model is measured briefly; the one that is to meet the budget until its interval is narrow.
BRIEF_S, BRIEF_SESSIONS = 3.0, 5
CAREFUL_S, CAREFUL_SESSIONS = 20.0, 21
# Brief measurements are not trusted so near a budget.
NEAR = 0.03
# The search aims this far below a latency budget, so that the upper end of the final interval holds it too.
AIM = 0.985
# Another process slows the original to more than so much of its fastest time in the run: seen, a model at 0.58x took
# 0.63x of an original that was slowed to 1.17x. So many tries.
DISTURBED, MOST_TRIES = 1.08, 3


Stage = Literal["searched", "final"]
STAGES: tuple[Stage, ...] = ("searched", "final")


class Predicting(Protocol):
    """A table, or what stands for one."""

    def predict(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The resource of the version with these tensor shapes."""

    @property
    def latency_ms(self) -> Timing:
        """What was measured of the uncut model."""


class LatencyGauge:
    """Predicts by a table and measures beside the original, all on one device.

    `budget` is the latency budget, if there is one: a relative one compares shares of the original's time, an absolute
    one milliseconds. A correction is measured over predicted.
    """

    def __init__(
        self,
        run: Run,
        original: Trace,
        table: Predicting,
        execution: Execution,
        budget: Budget | None,
        resource: str = LATENCY,
        device: Device | None = None,
        given: AsGiven | None = None,
    ) -> None:
        self._run = run
        self._resource = resource
        self._device = device
        self._original = original.folded
        self._table = table
        self._execution = execution
        self._targets: list[tuple[int, Budget]] = [] if budget is None else [(0, budget)]
        self._relative = budget is None or budget.relative
        self._inputs = random_inputs(original.folded.specs)
        self._predicted_reference = table.predict(original.folded.shapes)
        # The original's fastest time in this run: a table may be from a day on which the device was faster.
        self._calm_ms = float("inf")
        self.normalising = self._normalising(given)

    def _normalising(self, given: AsGiven | None) -> Normalising:
        """The file as given beside its normalised form, measured carefully when it is first asked for."""

        def measure(key: str, proto: onnx.ModelProto, reference: onnx.ModelProto) -> Ratio:
            return self._measured(key, proto, CAREFUL_S, CAREFUL_SESSIONS, reference)

        return Measured(self._run, self._resource, given, self._original.proto, measure)

    @property
    def _gain(self) -> float:
        """What normalising alone leaves of the resource of the file as given."""
        return 1.0 if self.normalising.ratio is None else self.normalising.ratio.median

    def as_given(self, normalised: float) -> float:
        """The resource of the file as given, where its normalised form has so much."""
        return normalised / self._gain

    def aim(self, budget: Budget, since: int) -> None:
        """From here on this limit counts: for what comes after the first `since` iterations."""
        self._targets = [*(target for target in self._targets if target[0] < since), (since, budget)]

    def _limit(self, iteration: int) -> float | None:
        """The budget's value, a share or an amount, that an iteration's model has to keep."""
        limits = [budget.value for since, budget in self._targets if since < max(1, iteration)]
        return limits[-1] if limits else None

    @property
    def reference_ms(self) -> float:
        """The original's median latency, as measured with the table."""
        return self._table.latency_ms.median_ms

    def predicted(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Latency in ms of the model at these tensor shapes, by the table."""
        return self._table.predict(shapes)

    def spent_ms(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
        """Where the predicted latency goes: every unit's share of it by its main layer's name; empty if unknown."""
        return spent_ms(self._table, shapes)

    def start_correction(self) -> float:
        """That of the normalised original: 1 for a relative budget, which compares predictions with predictions.

        Where it was measured beside the file as given, and the interval reaches over the budget, its upper end counts.
        """
        ratio, limit = self.normalising.ratio, self._limit(0)
        if ratio is None:
            return 1.0 if self._relative else self.reference_ms / self._predicted_reference
        middle = ratio.median if self._relative else ratio.model.median_ms
        upper = ratio.ci95[1] if self._relative else ratio.model.ci95[1]
        return (upper if limit is not None and upper > limit else middle) * self._unit / self._predicted_reference

    def correction(self, iteration: int, proto: onnx.ModelProto, predicted_ms: float) -> float:
        """What a measurement of an iteration's model says of its prediction: a brief one, far from the budget.

        A model near it is measured with care, and so are all that follow: rungs are closer to one another than brief
        measurements.
        """
        since = self._targets[-1][0] if self._targets else 0
        if any(self.judged("searched", earlier) for earlier in range(since + 1, iteration)):
            self.missed("searched", iteration, proto)
        else:
            self._measured(self._brief(iteration), proto, BRIEF_S, BRIEF_SESSIONS)
            found, limit = self._middle(self._brief(iteration)), self._limit(iteration)
            if limit is not None and abs(found / (limit * self._unit) - 1) < NEAR:
                self.missed("searched", iteration, proto)
        verdict = self.verdict(iteration, predicted_ms)
        return self._middle(self._brief(iteration)) / predicted_ms if verdict is None else verdict

    def measured(self, iteration: int) -> float | None:
        """What was measured of an iteration's model, in ms; a relative budget's is its share of the original's time."""
        value = self._run.recall(self._careful("searched", iteration)) or self._run.recall(self._brief(iteration))
        if value is None:
            return None
        found = msgspec.convert(value, Ratio)
        return found.median * self.as_given(self.reference_ms) if self._relative else found.model.median_ms

    def smallest(self, proto: onnx.ModelProto) -> float:
        """Brief measurement, in the table's ms, of the narrowest model: tables know least about extremes."""
        self._measured(self._smallest, proto, BRIEF_S, BRIEF_SESSIONS)
        return self._middle(self._smallest)

    def missed(self, stage: Stage, iteration: int, proto: onnx.ModelProto) -> bool:
        """Whether the interval of a careful measurement reaches beyond the budget."""
        self._measured(self._careful(stage, iteration), proto, CAREFUL_S, CAREFUL_SESSIONS)
        return self._beyond(stage, iteration) is not None

    def judged(self, stage: Stage, iteration: int) -> bool:
        """Whether this iteration's model has been measured carefully."""
        return self._run.recall(self._careful(stage, iteration)) is not None

    def verdict(self, iteration: int, predicted_ms: float) -> float | None:
        """The correction that follows from careful measurements; None if there are none.

        Of a model that missed the budget, the upper end of the interval counts. One that met it, by however little,
        is within what the search aims at.
        """
        missed = [ms for stage in STAGES if (ms := self._beyond(stage, iteration)) is not None]
        if missed:
            return max(missed) / predicted_ms
        limit = self._limit(iteration)
        found = [self._middle(self._careful(stage, iteration)) for stage in STAGES if self.judged(stage, iteration)]
        if not found or limit is None:
            return None
        return min(max(found), AIM * limit * self._unit) / predicted_ms

    def result(self, iteration: int, proto: onnx.ModelProto, predicted_ms: float) -> Latency | None:
        """All that was measured with care of an iteration's widths, as results show it."""
        self._measured(self._careful("final", iteration), proto, CAREFUL_S, CAREFUL_SESSIONS)
        found = self._known("final", iteration)
        assert found is not None
        return _latency(found, predicted_ms)

    def normalised(self) -> Latency | None:
        """What was measured of the uncut model once normalised; None where that is the file as given."""
        ratio = self.normalising.ratio
        return None if ratio is None else _latency(ratio, self.reference_ms)

    @property
    def _smallest(self) -> str:
        return f"{self._resource}/smallest"

    def _brief(self, iteration: int) -> str:
        return f"{self._resource}/brief/{iteration}"

    def _careful(self, stage: Stage, iteration: int) -> str:
        return f"{self._resource}/{stage}/{iteration}"

    def _beyond(self, stage: Stage, iteration: int) -> float | None:
        """The upper end of a careful measurement, in the table's ms, if it missed the budget."""
        found, limit = self._known(stage, iteration), self._limit(iteration)
        if found is None or limit is None:
            return None
        upper = found.ci95[1] if self._relative else found.model.ci95[1]
        return upper * self._unit if upper > limit else None

    def _known(self, stage: Stage, iteration: int) -> Ratio | None:
        """A careful measurement; the final one together with that before the training, which changes no width."""
        if not self.judged(stage, iteration):
            return None
        keys = [self._careful(s, iteration) for s in STAGES[: STAGES.index(stage) + 1] if self.judged(s, iteration)]
        found = [msgspec.convert(self._run.recall(key), Ratio) for key in keys]
        return found[0] if len(found) == 1 else pooled(found)

    @property
    def _unit(self) -> float:
        """The table's ms in the budget's unit: shares are of the file as given."""
        return self.as_given(self._predicted_reference) if self._relative else 1.0

    def _middle(self, key: str) -> float:
        """The median of a journalled measurement, in the table's ms."""
        found = msgspec.convert(self._run.recall(key), Ratio)
        return (found.median if self._relative else found.model.median_ms) * self._unit

    def _measured(
        self,
        key: str,
        proto: onnx.ModelProto,
        seconds: float,
        sessions: int,
        reference: onnx.ModelProto | None = None,
    ) -> Ratio:
        """The model's time beside that of the file as given, in pairs of fresh sessions taking turns; once per `key`.

        While something else slows the device, not all models suffer alike: it is measured again then, which only the
        original's time decides on.
        """
        beside = self.normalising.reference if reference is None else reference

        def once() -> Ratio:
            return ratio(
                proto,
                beside,
                self._inputs,
                self._execution,
                sessions=sessions,
                time_cap_s=seconds,
                device=self._device,
            )

        def measure() -> Ratio:
            found = [once()]
            while found[-1].reference.median_ms > DISTURBED * self._calm_ms and len(found) < MOST_TRIES:
                found.append(once())
            return min(found, key=lambda one: one.reference.median_ms)

        return self._remembered(key, measure)

    def _remembered(self, key: str, measure: Callable[[], Ratio]) -> Ratio:
        found = msgspec.convert(self._run.once(key, measure), Ratio)
        self._calm_ms = min(self._calm_ms, found.reference.median_ms)
        return found


def _latency(found: Ratio, predicted_ms: float) -> Latency:
    return Latency(
        before_ms=found.reference.median_ms,
        after_ms=found.model.median_ms,
        after_ci95_ms=found.model.ci95,
        ratio=found.median,
        ci95=found.ci95,
        predicted_ms=predicted_ms,
        sessions=found.model.sessions,
    )


class TableGauge(LatencyGauge):
    """Where only a bundle reaches the device: the table is all that is known, and nothing is measured."""

    def _normalising(self, given: AsGiven | None) -> Normalising:
        """What the table knows of the file as given."""
        return Recorded(self._table, given, self._original.proto)

    def correction(self, iteration: int, proto: onnx.ModelProto, predicted_ms: float) -> float:
        """That of the original: no measurement says otherwise."""
        return self.start_correction()

    def smallest(self, proto: onnx.ModelProto) -> float:
        """What the table says is all there is."""
        return float("inf")

    def judged(self, stage: Stage, iteration: int) -> bool:
        """There is nothing to find out."""
        return True

    def missed(self, stage: Stage, iteration: int, proto: onnx.ModelProto) -> bool:
        """Nobody can tell."""
        return False

    def verdict(self, iteration: int, predicted_ms: float) -> float | None:
        """There is none."""
        return None

    def result(self, iteration: int, proto: onnx.ModelProto, predicted_ms: float) -> None:
        """There is none."""


def spent_ms(table: Predicting, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Every unit's share of the latency that a table predicts, by its main layer's name; empty if it knows no units."""
    if not isinstance(table, Table):
        return {}
    units = table.predict_units(shapes)
    each = table.predict(shapes) / max(sum(units.values()), 1e-9)
    return {name: each * spent for name, spent in units.items()}


def loaded_table(
    file: Path, original: Trace, execution: Execution, environment: Environment | None = None, *, anywhere: bool = False
) -> Table:
    """A table from its file.

    Raises NetadaptError if it is of another model, or, unless it may be from `anywhere`, of another device than that of
    `environment` (None: this one).
    """
    device = None if anywhere else fingerprint(execution, environment)
    return Table.load(file, original.folded.proto, device=device)


def built_table(
    folder: Path,
    original: Trace,
    execution: Execution,
    seed: int,
    progress: Callable[[int, int, str], None],
    device: Device | None = None,
    resource: str = LATENCY,
) -> Table:
    """A table measured on `device` (None: here) and kept in `folder`; continued if a kill interrupted it."""
    return build(
        folder / TABLE_FILE.replace("table", resource.replace(LATENCY, "table")),
        Variant(original.folded.proto, original.folded.shapes),
        random_versions(original),
        execution=execution,
        progress=progress,
        seed=seed,
        device=device,
    )
