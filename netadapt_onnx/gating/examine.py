"""Judges one model by its rules; what cannot be measured is one check of several, and the others are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating import check_limits
from netadapt_onnx.gating.baseline import BaselineModel, record, resources
from netadapt_onnx.gating.limits import Limit
from netadapt_onnx.gating.measurements import Measurements
from netadapt_onnx.gating.result import Blame, Check, ModelResult, Problem, Resources
from netadapt_onnx.gating.sandbox import Sandbox
from netadapt_onnx.gating.settings import Rule


@dataclass(frozen=True)
class Examination:
    """A model's result, and what was measured under each of its settings."""

    result: ModelResult
    measured: tuple[Measurements, ...] = ()

    def recorded(self, earlier: BaselineModel | None) -> BaselineModel:
        """The model as a baseline keeps it."""
        first = self.measured[0]
        timed = next((m for m in self.measured if m.timed_already), first)
        device = timed.settings.device
        return record(first.facts, timed.timed_already, None if device is None else device.name, earlier)


def examine(path: Path, rules: Sequence[Rule], sandbox: Sandbox, scratch: Path, *, recording: bool) -> Examination:
    """Judge one model by all of its rules. `recording`: for a new baseline, so that limits on growth are void."""
    measured: dict[int, Measurements] = {}
    checks: list[Check] = []
    blame: dict[Blame, None] = {}
    try:
        for rule in rules:
            seen = next((m for m in measured.values() if m.settings == rule.settings), None)
            under = measured[id(rule)] = seen or Measurements(path, rule.settings, sandbox, scratch, naming=recording)
            _ = under.facts
            for limit in sorted(rule.limits, key=lambda limit: limit.kind != "max-increase"):  # times both models
                if recording and limit.kind == "max-increase":
                    _record_latency(limit, under)
                    continue
                check = replace(_checked(limit, under), advice=rule.message)
                guilty = check_limits.layers_to_blame(check, under.facts.layers, under.reference_already)
                blame |= dict.fromkeys(guilty)
                checks.append(check if guilty else check_limits.explain_growth(check))
    except NetadaptError as error:
        return Examination(ModelResult(path, None, (), error=Problem(error.code, error.message, error.hint)))
    checks.sort(key=lambda check: -check.excess)
    return Examination(_result(path, list(measured.values()), checks, tuple(blame)), tuple(measured.values()))


def _result(
    path: Path, measured: Sequence[Measurements], checks: Sequence[Check], blame: tuple[Blame, ...]
) -> ModelResult:
    facts = measured[0].facts
    timed = next((m.timed_already for m in measured if m.timed_already), None)
    predicted = next((m.predicted_already for m in measured if m.predicted_already is not None), None)
    score = next((m.score_already for m in measured if m.score_already), None)
    latency_ms = timed.latency_ms.median if timed else predicted
    return ModelResult(
        path,
        Resources(facts.params, facts.macs, facts.size_bytes, facts.memory_bytes, latency_ms),
        tuple(checks),
        blame,
        timed.latency_ms if timed else None,
        score,
        next((Problem(c.code, f"{c.limit}: {c.message}", c.advice) for c in checks if not c.conclusive), None),
    )


def _record_latency(limit: Limit, under: Measurements) -> None:
    """A limit on latency's growth is why a baseline holds a latency."""
    if limit.resource == "latency" and under.table is None:
        under.timed(None)


def _checked(limit: Limit, under: Measurements) -> Check:
    try:
        if limit.kind == "min":
            score = under.score
            return check_limits.at_least(limit, score.value, score.metric)
        if limit.kind == "max":
            value, note = under.latency_ms() if limit.resource == "latency" else (_counted(limit, under), "")
            check = check_limits.at_most(limit, value)
            return replace(check, message=f"{check.message}; {note}") if note else check
        return _grown(limit, under)
    except NetadaptError as error:
        return check_limits.inconclusive(limit, str(error), error.code)


def _counted(limit: Limit, under: Measurements) -> float:
    value = resources(under.facts)[limit.resource]
    if value is None:
        raise NetadaptError(under.facts.unknown, code="unknown-shape")
    return value


def _grown(limit: Limit, under: Measurements) -> Check:
    reference = under.reference
    if reference is None and under.settings.allow_new:
        return check_limits.new(limit)
    if reference is None:
        raise NetadaptError(
            f"the baseline {under.settings.baseline} does not have this model",
            hint="add it with --update-baseline, or allow new models with --allow-new",
            code="baseline",
        )
    if limit.resource == "latency":
        return _slower(limit, under)
    value, before = _counted(limit, under), reference.resources[limit.resource]
    if before is None:
        raise NetadaptError(f"the baseline has no {limit.resource} of this model", code="baseline")
    return check_limits.grown(limit, value, before)


def _slower(limit: Limit, under: Measurements) -> Check:
    """A regression is measured twice: chance, or a burst of work elsewhere, rarely strikes both times."""
    check = check_limits.slower(limit, *under.slowdown())
    if check.ok or under.table is not None:
        return check
    return check_limits.slower(limit, *under.slowdown(again=True))
