"""Checks one model by its rules; a limit that cannot be measured is one check of several, and the others are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from netadapt_onnx.common.resources import amounts
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating import check_limits
from netadapt_onnx.gating.baseline import BaselineModel, record
from netadapt_onnx.gating.limits import Limit
from netadapt_onnx.gating.measurements import Measurements
from netadapt_onnx.gating.result import Blame, Check, ModelResult, Problem, Resources
from netadapt_onnx.gating.revision import unusable
from netadapt_onnx.gating.sandbox import Sandbox
from netadapt_onnx.gating.settings import Rule, relative


@dataclass(frozen=True)
class Examination:
    """A model's result, and the measurements under each of its settings."""

    result: ModelResult
    measured: tuple[Measurements, ...] = ()

    def baseline_model(self, earlier: BaselineModel | None) -> BaselineModel:
        """The model's entry of a baseline; `earlier` is the one that it replaces."""
        first = self.measured[0]
        measurements = next((m for m in self.measured if m.cached_timing), first)
        device = measurements.settings.device
        return record(first.facts, measurements.cached_timing, None if device is None else device.name, earlier)


def examine(path: Path, rules: Sequence[Rule], sandbox: Sandbox, scratch: Path, *, recording: bool) -> Examination:
    """Check one model by all of its rules.

    Args:
        path: the model's file.
        rules: its limits, each with the settings that they are measured under.
        sandbox: it reads and measures the model.
        scratch: a folder for files of revisions.
        recording: whether a new baseline is recorded, so that limits on growth are void.
    """
    measured: list[Measurements] = []
    checks: list[Check] = []
    blame: dict[Blame, None] = {}
    try:
        for rule in rules:
            seen = next((m for m in measured if m.settings == rule.settings), None)
            measurements = seen or Measurements(path, rule.settings, sandbox, scratch, recording)
            measured.append(measurements)
            _ = measurements.facts
            for limit in sorted(rule.limits, key=lambda limit: limit.kind != "max-increase"):  # times both models
                if recording and limit.kind == "max-increase":
                    if limit.resource == "latency" and measurements.table is None:
                        measurements.time_model(None)  # such a limit is why a baseline holds a latency
                    continue
                check = replace(_check(limit, measurements), advice=rule.message)
                guilty = check_limits.layers_to_blame(check, measurements.facts.layers, measurements.cached_reference)
                blame |= dict.fromkeys(guilty)
                checks.append(check if guilty else check_limits.explain_growth(check))
    except NetadaptError as error:
        return Examination(ModelResult(path, None, (), error=Problem(error.code, error.message, error.hint)))
    checks.sort(key=lambda check: -check.excess)
    return Examination(_result(path, measured, checks, tuple(blame)), tuple(measured))


def _result(
    path: Path, measured: Sequence[Measurements], checks: Sequence[Check], blame: tuple[Blame, ...]
) -> ModelResult:
    facts = measured[0].facts
    timing = next((m.cached_timing for m in measured if m.cached_timing), None)
    predicted_ms = next((m.cached_prediction for m in measured if m.cached_prediction is not None), None)
    score = next((m.cached_score for m in measured if m.cached_score), None)
    latency_ms = timing.latency_ms.median if timing else predicted_ms
    return ModelResult(
        path,
        Resources(facts.params, facts.macs, facts.size_bytes, facts.memory_bytes, latency_ms),
        tuple(checks),
        blame,
        timing.latency_ms if timing else None,
        score,
        next((Problem(c.code, f"{c.limit}: {c.message}", c.hint) for c in checks if not c.conclusive), None),
    )


def _check(limit: Limit, measurements: Measurements) -> Check:
    try:
        if limit.kind == "min":
            score = measurements.score
            return check_limits.check_minimum(limit, score.value, score.metric)
        if limit.kind == "max":
            value, note = (
                measurements.latency_ms() if limit.resource == "latency" else (_count(limit, measurements), "")
            )
            check = check_limits.check_maximum(limit, value)
            return replace(check, message=f"{check.message}; {note}") if note else check
        return _check_growth(limit, measurements)
    except NetadaptError as error:
        return check_limits.inconclusive_check(limit, error)


def _count(limit: Limit, measurements: Measurements) -> float:
    value: float | None = amounts(measurements.facts)[limit.resource]
    if value is None:
        raise NetadaptError(measurements.facts.unknown, code="unknown-shape")
    return value


def _shown(baseline: str | None) -> str:
    return str(baseline) if baseline is None or baseline.startswith("git:") else str(relative(Path(baseline)))


def _check_growth(limit: Limit, measurements: Measurements) -> Check:
    reference = measurements.reference
    if reference is None and measurements.settings.allow_new:
        return check_limits.new_model_check(limit)
    if reference is None:
        raise unusable(
            f"the baseline {_shown(measurements.settings.baseline)} does not have this model",
            "add it with --update-baseline, or allow new models with --allow-new",
        )
    if limit.resource == "latency":
        return _check_latency_growth(limit, measurements)
    value, before = _count(limit, measurements), reference.resources[limit.resource]
    if before is None:
        raise unusable(f"the baseline has no {limit.resource} of this model")
    return check_limits.check_growth(limit, value, before)


def _check_latency_growth(limit: Limit, measurements: Measurements) -> Check:
    """Measure a regression twice: chance, or a burst of work elsewhere, rarely strikes both times."""
    check = check_limits.check_slowdown(limit, *measurements.slowdown())
    if check.ok or measurements.table is not None:
        return check
    return check_limits.check_slowdown(limit, *measurements.slowdown(again=True))
