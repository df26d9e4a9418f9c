"""A check in words: its value and its limit with their units, and one sentence about all models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from netadapt_onnx.common import render
from netadapt_onnx.gating.check_limits import distinct_amounts
from netadapt_onnx.gating.result import Blame, Check, Gate, ModelResult

# So many models that share a reason are named.
NAMES = 3


def rows(gate: Gate, mark: Callable[[str], str], name: Callable[[object], str]) -> list[list[str]]:
    """A row for each check: its state (ok, FAIL or ERROR, marked), model, limit, value and bound.

    A model that could not be read has one row without numbers.
    """
    table = []
    for model in gate.models:
        path = name(model.path)
        if model.unread:
            table.append([mark("ERROR"), path, "", "", ""])
        for check in model.checks:
            state = "ok" if check.ok else "FAIL" if check.conclusive else "ERROR"
            table.append([mark(state), path, check.limit, *amounts(check)])
    return table


def amounts(check: Check) -> tuple[str, str]:
    """The value and the limit of a check, with units."""
    bound = check.max if check.max is not None else check.min
    assert bound is not None
    if check.limit == "accuracy":
        return "" if check.value is None else f"{100 * check.value:.2f} %", f">= {100 * bound:.4g} %"
    if check.unit == "fraction":
        return "" if check.value is None else f"{100 * check.value:+.3g} %", f"{100 * bound:+.3g} %"
    if check.value is None:
        return "", render.amount(check.limit, bound)
    return distinct_amounts(check.limit, check.value, bound)


def growth(blame: Blame) -> str:
    """The growth of a layer to blame."""
    after = render.count(blame.after or 0)
    if blame.before is None:
        return f"{blame.resource} {after}"
    return f"{blame.resource} {render.count(blame.before)} -> {after}"


def obstacles(gate: Gate) -> Mapping[str, Sequence[Path]]:
    """Why something could not be checked, each reason once, with its models; the first is the one of `gate.error`."""
    models: dict[str, list[Path]] = {}
    for model in gate.models:
        for reason in model.obstacles:
            models.setdefault(reason, []).append(model.path)
    return models


def listed(paths: Sequence[Path], name: Callable[[object], str]) -> str:
    """The names of models, of many only the first."""
    others = len(paths) - NAMES
    more = f" and {render.plural(others, 'other model')}" if others > 0 else ""
    return ", ".join(map(name, paths[:NAMES])) + more


def blame_title(model: ModelResult) -> str:
    """What the layers to blame have in common."""
    has_grown = any(blame.before is not None for blame in model.blame)
    return "layers that grew most" if has_grown else "largest layers"


def headline(gate: Gate) -> str:
    """One sentence about all models."""
    models, checks = len(gate.models), sum(len(model.checks) for model in gate.models)
    broken = sum(model.error is not None for model in gate.models)
    parts = []
    if gate.failed:
        parts.append(f"{gate.failed} of {render.plural(models, 'model')} {_verb(gate.failed, 'exceed')} a limit")
    if broken:
        of_all = str(broken) if parts else render.plural(broken, "model")
        parts.append(f"{of_all} could not be checked")
    if not parts:
        held = (
            f"{_verb(models, 'meet')} {render.plural(checks, 'limit')}"
            if checks
            else f"{_verb(models, 'have')} no limits"
        )
        parts.append(f"{render.plural(models, 'model')} {held}")
    return ", ".join(parts)


def _verb(count: int, word: str) -> str:
    return {"have": "has"}.get(word, word + "s") if count == 1 else word
