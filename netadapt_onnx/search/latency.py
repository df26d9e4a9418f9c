"""Latency in a search: the table proposes, the device decides; measurements are journalled before they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import onnx

from netadapt_onnx.profilers.build import Variant, build, random_versions
from netadapt_onnx.profilers.session import Execution, fingerprint
from netadapt_onnx.profilers.table import Table
from netadapt_onnx.profilers.timing import Ratio, ratio
from netadapt_onnx.runtime import random_inputs
from netadapt_onnx.search.result import Latency
from netadapt_onnx.search.run import Run
from netadapt_onnx.surgery import Trace

TABLE_FILE = "table.jsonl"
# An accepted model is measured briefly; the one that is to meet the budget until its interval is narrow.
BRIEF_S, BRIEF_SESSIONS = 3.0, 5
CAREFUL_S, CAREFUL_SESSIONS = 20.0, 21
# The search aims this far below a latency budget, so that the upper end of the final interval holds it too.
AIM = 0.98


class LatencyGauge:
    """Predicts by a table and measures beside the original, all on one device.

    `relative`: whether the budget is a share of the original's latency or an absolute one. A correction is measured
    over predicted.
    """

    def __init__(self, run: Run, original: Trace, table: Table, execution: Execution, *, relative: bool) -> None:
        self._run = run
        self._original = original.folded
        self._table = table
        self._execution = execution
        self._relative = relative
        self._inputs = random_inputs(original.folded.specs)
        self._predicted_reference = table.predict(original.folded.shapes)

    @property
    def aim(self) -> float:
        """The share of the budget at which to aim."""
        return AIM

    @property
    def reference_ms(self) -> float:
        """The original's median latency, as measured with the table."""
        return self._table.latency_ms.median_ms

    def predicted(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Latency in ms of the model at these tensor shapes, by the table."""
        return self._table.predict(shapes)

    def start_correction(self) -> float:
        """The original's own: 1 for a relative budget, which compares predictions with predictions."""
        return 1.0 if self._relative else self.reference_ms / self._predicted_reference

    def correction(self, key: str, proto: onnx.ModelProto, predicted_ms: float) -> float:
        """What a brief measurement says of the prediction."""
        found = self._measured(key, proto, BRIEF_S, BRIEF_SESSIONS)
        return self._of_prediction(found.median, found.model.median_ms, predicted_ms)

    def upper(self, key: str, proto: onnx.ModelProto) -> float:
        """The upper end of a careful measurement's 95% interval: relative to the original, or in ms."""
        found = self._measured(key, proto, CAREFUL_S, CAREFUL_SESSIONS)
        return found.ci95[1] if self._relative else found.model.ci95[1]

    def known_correction(self, key: str, predicted_ms: float) -> float | None:
        """What the upper end of an earlier careful measurement says of the prediction; None if there was none."""
        value = self._run.recall(f"latency/{key}")
        if value is None:
            return None
        found = msgspec.convert(value, Ratio)
        return self._of_prediction(found.ci95[1], found.model.ci95[1], predicted_ms)

    def result(self, key: str, proto: onnx.ModelProto, predicted_ms: float) -> Latency:
        """A careful measurement as results show it."""
        found = self._measured(key, proto, CAREFUL_S, CAREFUL_SESSIONS)
        return Latency(
            before_ms=found.reference.median_ms,
            after_ms=found.model.median_ms,
            after_ci95_ms=found.model.ci95,
            ratio=found.median,
            ci95=found.ci95,
            predicted_ms=predicted_ms,
            sessions=found.model.sessions,
        )

    def _of_prediction(self, share: float, absolute_ms: float, predicted_ms: float) -> float:
        return (share * self._predicted_reference if self._relative else absolute_ms) / predicted_ms

    def _measured(self, key: str, proto: onnx.ModelProto, seconds: float, sessions: int) -> Ratio:
        """The model's time beside the original's, in pairs of fresh sessions that take turns; once per `key`."""

        def measure() -> Ratio:
            reference = self._original.proto
            return ratio(proto, reference, self._inputs, self._execution, sessions=sessions, time_cap_s=seconds)

        return msgspec.convert(self._run.once(f"latency/{key}", measure), Ratio)


def loaded_table(file: Path, original: Trace, execution: Execution) -> Table:
    """A table from its file. Raises NetadaptError if it is of another device or model."""
    return Table.load(file, original.folded.proto, device=fingerprint(execution))


def built_table(
    folder: Path, original: Trace, execution: Execution, seed: int, progress: Callable[[int, int, str], None]
) -> Table:
    """A table measured here and kept in `folder`; continued if a kill interrupted it."""
    return build(
        folder / TABLE_FILE,
        Variant(original.folded.proto, original.folded.shapes),
        random_versions(original),
        ep=execution.ep,
        threads=execution.threads,
        progress=progress,
        seed=seed,
    )
