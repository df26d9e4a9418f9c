"""Budgets: `latency=12ms`, `macs=0.5x`, `size=4.2MB`, and the limits they mean for a given model."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from netadapt_onnx.common.amounts import EXAMPLES, needs_unit, parse_amount, unit_hint
from netadapt_onnx.common.resources import ENERGY, LATENCY, RESOURCES
from netadapt_onnx.errors import NetadaptError

_SUFFIXES = {LATENCY: "ms", ENERGY: "mJ"}


# Budgets as the user writes them: `RESOURCE=VALUE`, one or several, or by resource, numbers in base units.
BudgetTexts = str | Sequence[str] | Mapping[str, str | float]


@dataclass(frozen=True)
class Budget:
    """A limit on one resource: `value` in its base unit (count, bytes, ms), or as a share of the original's."""

    resource: str
    value: float
    relative: bool

    @property
    def kind(self) -> str:
        """The resource, whatever the device it is measured on: `latency` of `latency@pi`."""
        return self.resource.partition("@")[0]

    def limit(self, original: float) -> float:
        """The limit in base units, given what the original model costs."""
        return self.value * original if self.relative else self.value

    def __str__(self) -> str:
        if self.relative:
            return f"{self.resource}={self.value:g}x"
        suffix = _SUFFIXES.get(self.kind) or ("B" if needs_unit(self.kind, self.value) else "")
        return f"{self.resource}={self.value:.15g}{suffix}"


def parse_budgets(texts: BudgetTexts, resources: Collection[str] = RESOURCES) -> tuple[Budget, ...]:
    """Read budgets, VALUE like 0.5x, 50%, 4.2MB, 12ms.

    `latency@NAME` is that of the device called NAME. `resources` names those that exist; those beyond the built-in ones
    take counts. Raises NetadaptError (code `budget`).
    """
    budgets = tuple(_parse(resource, value, resources) for resource, value in _pairs(texts))
    _check([b.resource for b in budgets])
    return budgets


Target = tuple[Budget, ...]


def budget_texts(texts: BudgetTexts, resources: Collection[str]) -> tuple[str, ...]:
    """Budgets, several targets included, in one spelling. Raises NetadaptError as `parse_targets` does."""
    targets = parse_targets(texts, resources)
    spellings = []
    for of_one in zip(*targets, strict=True):
        first, *others = dict.fromkeys(map(str, of_one))
        spellings.append(",".join([first, *(text.partition("=")[2] for text in others)]))
    return tuple(spellings)


def parse_targets(texts: BudgetTexts, resources: Collection[str] = RESOURCES) -> tuple[Target, ...]:
    """Budgets of which each may have several values, `latency=0.8x,0.6x`: the targets, loosest first.

    A budget with one value holds for every target. Raises NetadaptError as `parse_budgets` does, for values given
    twice, shares mixed with amounts, and counts of values that differ.
    """
    columns: list[list[Budget]] = []
    for resource, value in _pairs(texts):
        values: Sequence[str | float] = value.split(",") if isinstance(value, str) else [value]
        column = sorted((_parse(resource, one, resources) for one in values), key=lambda b: -b.value)
        if len({b.relative for b in column}) > 1 or len({b.value for b in column}) < len(column):
            hint = "different values, all shares or all amounts"
            raise NetadaptError(f"budget {resource}={value}", hint=hint, code="budget")
        columns.append(column)
    count = max(map(len, columns), default=0)
    if any(len(column) not in (1, count) for column in columns):
        counts = ", ".join(f"{column[0].resource} has {len(column)}" for column in columns)
        raise NetadaptError(f"budgets with different numbers of values: {counts}", hint="give as many", code="budget")
    _check([column[0].resource for column in columns])
    return tuple(zip(*(column if len(column) == count else column * count for column in columns), strict=True))


def _check(names: Sequence[str]) -> None:
    if not names:
        raise NetadaptError("no budget", hint="give one, e.g. --budget latency=0.6x", code="budget")
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise NetadaptError(f"two budgets for {twice}", hint="give each resource once", code="budget")


def _pairs(texts: BudgetTexts) -> list[tuple[str, str | float]]:
    """Resources and their values."""
    if isinstance(texts, Mapping):
        return list(texts.items())
    pairs: list[tuple[str, str | float]] = []
    for text in [texts] if isinstance(texts, str) else texts:
        resource, equals, value = text.partition("=")
        if not equals:
            raise NetadaptError(f"budget '{text}' is not RESOURCE=VALUE", hint="e.g. latency=0.6x", code="budget")
        pairs.append((resource.strip(), value.strip()))
    return pairs


def _parse(resource: str, value: str | float, resources: Collection[str]) -> Budget:
    kind, at, device = resource.partition("@")
    if kind not in resources or (at and (kind != LATENCY or not re.fullmatch(r"[\w.-]+", device))):
        near = difflib.get_close_matches(resource, list(resources), 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(resources)}"
        raise NetadaptError(f"unknown resource '{resource}' in a budget", hint=hint, code="budget")
    parsed = parse_amount(kind, value) if isinstance(value, str) else (float(value), False)
    if parsed is None and (hint := unit_hint(kind, str(value))):
        raise NetadaptError(f"budget {resource}={value} has no unit", hint=hint, code="budget")
    if parsed is None:
        hint = f"write {resource}={EXAMPLES.get(kind, '1000')} or {resource}=0.5x"
        raise NetadaptError(f"budget {resource}={value} is not an amount of {kind}", hint=hint, code="budget")
    amount, relative = parsed
    if not (math.isfinite(amount) and amount > 0):
        raise NetadaptError(f"budget {resource}={value} is not above zero", code="budget")
    return Budget(resource, amount, relative)


def file_name(target: Target) -> str:
    """What the model for one of several targets is called."""
    return "_".join(str(budget).replace("=", "-").replace("@", "-") for budget in target) + ".onnx"
