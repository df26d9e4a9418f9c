"""Budgets: `latency=12ms`, `macs=0.5x`, `size=4.2MB`, and the limits they mean for a given model."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from netadapt_onnx.amounts import EXAMPLES, parse_amount
from netadapt_onnx.errors import NetadaptError

# In the order in which they are shown; several budgets keep the order in which they were given.
LATENCY = "latency"
RESOURCES = ("macs", "params", "size", "memory", LATENCY)
# What is measured without a table: energy in mJ, and whatever the user's own program says.
ENERGY, CUSTOM = "energy", "custom"
SEARCHED = (*RESOURCES, ENERGY, CUSTOM)
_SUFFIXES = {LATENCY: "ms", ENERGY: "mJ"}


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
        return f"{self.resource}={self.value:.15g}{_SUFFIXES.get(self.kind, '')}"


def parse_budgets(
    given: str | Sequence[str] | Mapping[str, str | float], known: Collection[str] = RESOURCES
) -> tuple[Budget, ...]:
    """Read budgets as the user writes them: one or several of `RESOURCE=VALUE`, VALUE like 0.5x, 50%, 4.2MB, 12ms.

    `latency@NAME` is that of the device called NAME. `known` names the resources that exist; those beyond the built-in
    ones take counts. A mapping's numbers are in base units. Raises NetadaptError (code `budget`).
    """
    if isinstance(given, str):
        given = [given]
    pairs = list(given.items()) if isinstance(given, Mapping) else [_split(text) for text in given]
    if not pairs:
        raise NetadaptError("no budget", hint="give one, e.g. --budget latency=0.6x", code="budget")
    budgets = tuple(_parse(resource, value, known) for resource, value in pairs)
    names = [b.resource for b in budgets]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise NetadaptError(f"two budgets for {twice}", hint="give each resource once", code="budget")
    return budgets


def _split(text: str) -> tuple[str, str]:
    resource, equals, value = text.partition("=")
    if not equals:
        raise NetadaptError(f"budget '{text}' is not RESOURCE=VALUE", hint="e.g. latency=0.6x", code="budget")
    return resource.strip(), value.strip()


def _parse(resource: str, value: str | float, known: Collection[str]) -> Budget:
    kind, at, device = resource.partition("@")
    if kind not in known or (at and (kind != LATENCY or not re.fullmatch(r"[\w.-]+", device))):
        near = difflib.get_close_matches(resource, list(known), 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise NetadaptError(f"unknown resource '{resource}' in a budget", hint=hint, code="budget")
    if isinstance(value, str):
        parsed = parse_amount(kind, value)
        if parsed is None:
            example = EXAMPLES.get(kind, "1000")
            raise NetadaptError(
                f"budget {resource}={value} is not an amount of {kind}",
                hint=f"write {resource}={example} or {resource}=0.5x",
                code="budget",
            )
        amount, relative = parsed
    else:
        amount, relative = float(value), False
    if not (math.isfinite(amount) and amount > 0):
        raise NetadaptError(f"budget {resource}={value} is not above zero", code="budget")
    return Budget(resource, amount, relative)
