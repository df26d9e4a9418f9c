"""Latency in a run of `scale`: a table proposes widths, and measurements in turn with the original correct it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import msgspec
import onnx

from netadapt_onnx.common.budget import Budget
from netadapt_onnx.graph.original_file import AsGiven
from netadapt_onnx.graph.runtime import random_inputs
from netadapt_onnx.profilers.estimate import Estimate, estimate
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.statistics import Ratio
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.timing import TimingPlan, ratio
from netadapt_onnx.scaling.network import ScalableNetwork
from netadapt_onnx.scaling.target_widths import Widths, WidthSearch, nearest, widest
from netadapt_onnx.search.budget_check.measurements import BRIEF_S, BRIEF_SESSIONS, CAREFUL_S, CAREFUL_SESSIONS
from netadapt_onnx.search.budget_check.normalisation import MeasuredNormalisation, normalisation_note
from netadapt_onnx.search.run_directory.run import Run

# A latency target is met within this share of itself, or after so many networks measured.
NEAR = 0.015
ATTEMPTS = 4


@dataclass(frozen=True)
class LatencyMeasurements:
    """Measures networks relative to the original file; every measurement is journalled before it is used.

    `notes` say what normalising the file alone gains, once that is known.
    """

    run: Run
    network: ScalableNetwork
    table: Table | None
    execution: Execution
    original: AsGiven
    log: Callable[[str], None]
    notes: list[str] = field(init=False, default_factory=list)

    @cached_property
    def _normalising(self) -> MeasuredNormalisation:
        normalised = self.network.trace.folded.proto
        return MeasuredNormalisation(self.run, "latency", self.original, normalised, self._measure_normalised)

    @property
    def gain(self) -> float:
        """The share of the original file's time that normalising alone leaves."""
        ratio, note = self._normalising.ratio, self._normalising.note
        if ratio is not None:
            note = normalisation_note("latency", self.network.source.path.name, ratio.median, ratio.ci95)
        self.notes.extend([note] if note and note not in self.notes else [])
        return 1.0 if ratio is None else ratio.median

    @property
    def reference_ms(self) -> float:
        """The time of the original file, on the scale of the table."""
        assert self.table is not None
        return self.table.latency_ms.median_ms / self.gain

    def widths_for(
        self, name: str, budget: Budget, search: WidthSearch, predict: Callable[[Widths], float], original_ms: float
    ) -> tuple[Widths, Estimate]:
        """Find the widths whose measured time is nearest to a target.

        The table proposes; each measurement corrects the time that the table is asked for next.

        Args:
            name: The network's name in the journal.
            budget: The target.
            search: Where widths are sought.
            predict: The time of a network at given widths, in ms, by the table.
            original_ms: The predicted time of the original file.

        Returns:
            The widths, and the estimate of their share of the original's time.
        """
        limit = budget.limit(original_ms)
        goal = limit
        measured: dict[str, tuple[float, Widths, Estimate]] = {}
        for _ in range(ATTEMPTS):
            widths = nearest(
                widest(search.path, predict, goal, search.start, str(budget)), search.allowed, predict, goal, NEAR
            )
            key = f"latency/{name}/{'-'.join(map(str, widths.values()))}"
            if key in measured:
                break
            measurement = msgspec.convert(self.run.once(key, partial(self._measure, widths)), Ratio)
            share, time_ms = (estimate(measurement, None, relative=relative) for relative in (True, False))
            amount = share.value * original_ms if budget.relative else time_ms.value
            measured[key] = (abs(amount / limit - 1), widths, share)
            self.log(f"{name}: {amount:.4g} ms measured for {limit:.4g}")
            if measured[key][0] <= NEAR:
                break
            goal = predict(widths) * limit / amount
        _, widths, share = min(measured.values(), key=lambda entry: entry[0])
        return widths, share

    def measure_briefly(self, name: str, widths: Mapping[str, int]) -> tuple[Estimate, float]:
        """A network's share of the original's time, and its time in ms on the same scale for all networks of a run."""
        measurement = msgspec.convert(
            self.run.once(f"latency/{name}", partial(self._measure, widths, BRIEF_SESSIONS, BRIEF_S)), Ratio
        )
        original_ms = self.run.once("latency/original", lambda: measurement.reference.median_ms)
        share = estimate(measurement, None, relative=True)
        return share, share.value * (self.reference_ms if self.table is not None else original_ms)

    def _measure(
        self, widths: Mapping[str, int], sessions: int = CAREFUL_SESSIONS, seconds: float = CAREFUL_S
    ) -> Ratio:
        return self._ratio(self.network.at(widths), self._normalising.reference, sessions, seconds)

    def _measure_normalised(self, normalised: onnx.ModelProto, reference: onnx.ModelProto) -> Ratio:
        """The normalised model relative to the original file, measured carefully and once in a run."""
        measure = partial(self._ratio, normalised, reference, CAREFUL_SESSIONS, CAREFUL_S)
        return msgspec.convert(self.run.once("latency/normalised", measure), Ratio)

    def _ratio(self, proto: onnx.ModelProto, reference: onnx.ModelProto, sessions: int, seconds: float) -> Ratio:
        inputs = random_inputs(self.network.trace.folded.specs)
        return ratio(proto, reference, inputs, self.execution, TimingPlan(sessions=sessions, time_cap_s=seconds))
