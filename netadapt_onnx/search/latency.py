"""Latency in a search: the table proposes, the device decides; measurements are journalled before they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import onnx

from netadapt_onnx.profilers.build import build
from netadapt_onnx.profilers.measuring import Device, Environment
from netadapt_onnx.profilers.session import Execution, fingerprint
from netadapt_onnx.profilers.table import Table
from netadapt_onnx.profilers.timing import Ratio, Timing, ratio
from netadapt_onnx.profilers.versions import Variant, random_versions
from netadapt_onnx.runtime import random_inputs
from netadapt_onnx.search.budget import LATENCY, Budget
from netadapt_onnx.search.result import Latency
from netadapt_onnx.search.run import Run
from netadapt_onnx.surgery import Trace

TABLE_FILE = "table.jsonl"
# An accepted model is measured briefly; the one that is to meet the budget until its interval is narrow.
BRIEF_S, BRIEF_SESSIONS = 3.0, 5
CAREFUL_S, CAREFUL_SESSIONS = 20.0, 21
# The search aims this far below a latency budget, so that the upper end of the final interval holds it too.
AIM = 0.98


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
        """The original's own: 1 for a relative budget, which compares predictions with predictions."""
        return 1.0 if self._relative else self.reference_ms / self._predicted_reference

    def correction(self, iteration: int, proto: onnx.ModelProto, predicted_ms: float) -> float:
        """What a brief measurement of an iteration's model says of its prediction.

        Where careful measurements have found earlier models slower than brief ones had, they are believed.
        """
        self._measured(self._brief(iteration), proto, BRIEF_S, BRIEF_SESSIONS)
        margin = max((self._margin(earlier) for earlier in range(1, iteration)), default=1.0)
        return self._middle(self._brief(iteration)) * margin / predicted_ms

    def measured(self, iteration: int) -> float | None:
        """What a brief measurement found, in ms; a relative budget's is a share of the original's measured time."""
        value = self._run.recall(self._brief(iteration))
        if value is None:
            return None
        found = msgspec.convert(value, Ratio)
        return found.median * self.reference_ms if self._relative else found.model.median_ms

    def smallest(self, proto: onnx.ModelProto) -> float:
        """Brief measurement, in the table's ms, of the narrowest model: tables know least about extremes."""
        self._measured(self._smallest, proto, BRIEF_S, BRIEF_SESSIONS)
        return self._middle(self._smallest)

    def missed(self, stage: Stage, iteration: int, proto: onnx.ModelProto) -> bool:
        """Whether the interval of a careful measurement reaches beyond the budget."""
        self._measured(self._careful(stage, iteration), proto, CAREFUL_S, CAREFUL_SESSIONS)
        return self._verdict(stage, iteration) is not None

    def verdict(self, iteration: int, predicted_ms: float) -> float | None:
        """The correction that follows from a careful measurement that missed the budget; None if none has."""
        found = [self._verdict(stage, iteration) for stage in STAGES]
        missed = [ms for ms in found if ms is not None]
        return max(missed) / predicted_ms if missed else None

    def result(self, iteration: int, proto: onnx.ModelProto, predicted_ms: float) -> Latency | None:
        """A careful measurement as results show it."""
        found = self._measured(self._careful("final", iteration), proto, CAREFUL_S, CAREFUL_SESSIONS)
        return Latency(
            before_ms=found.reference.median_ms,
            after_ms=found.model.median_ms,
            after_ci95_ms=found.model.ci95,
            ratio=found.median,
            ci95=found.ci95,
            predicted_ms=predicted_ms,
            sessions=found.model.sessions,
        )

    @property
    def _smallest(self) -> str:
        return f"{self._resource}/smallest"

    def _brief(self, iteration: int) -> str:
        return f"{self._resource}/brief/{iteration}"

    def _careful(self, stage: Stage, iteration: int) -> str:
        return f"{self._resource}/{stage}/{iteration}"

    def _margin(self, iteration: int) -> float:
        missed = [ms for ms in (self._verdict(stage, iteration) for stage in STAGES) if ms is not None]
        return max(1.0, max(missed) / self._middle(self._brief(iteration))) if missed else 1.0

    def _verdict(self, stage: Stage, iteration: int) -> float | None:
        """The upper end of a careful measurement, in the table's ms, if it missed the budget."""
        value = self._run.recall(self._careful(stage, iteration))
        limit = self._limit(iteration)
        if value is None or limit is None:
            return None
        found = msgspec.convert(value, Ratio)
        upper = found.ci95[1] if self._relative else found.model.ci95[1]
        return upper * (self._predicted_reference if self._relative else 1.0) if upper > limit else None

    def _middle(self, key: str) -> float:
        """The median of a journalled measurement, in the table's ms."""
        found = msgspec.convert(self._run.recall(key), Ratio)
        return found.median * self._predicted_reference if self._relative else found.model.median_ms

    def _measured(self, key: str, proto: onnx.ModelProto, seconds: float, sessions: int) -> Ratio:
        """The model's time beside the original's, in pairs of fresh sessions that take turns; once per `key`."""

        def measure() -> Ratio:
            reference = self._original.proto
            return ratio(
                proto,
                reference,
                self._inputs,
                self._execution,
                sessions=sessions,
                time_cap_s=seconds,
                device=self._device,
            )

        return self._remembered(key, measure)

    def _remembered(self, key: str, measure: Callable[[], Ratio]) -> Ratio:
        return msgspec.convert(self._run.once(key, measure), Ratio)


class TableGauge(LatencyGauge):
    """Where only a bundle reaches the device: the table is all that is known, and nothing is measured."""

    def correction(self, iteration: int, proto: onnx.ModelProto, predicted_ms: float) -> float:
        """That of the original: no measurement says otherwise."""
        return self.start_correction()

    def smallest(self, proto: onnx.ModelProto) -> float:
        """What the table says is all there is."""
        return float("inf")

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
