"""Budgets: `latency=12ms`, `macs=0.5x`, `size=4.2MB`, and the limits they mean for a given model."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from netadapt_onnx.errors import NetadaptError

# In the order in which they are shown; several budgets keep the order in which they were given.
RESOURCES = ("macs", "params", "size", "memory", "latency")

_COUNT = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9} | {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_UNITS: Mapping[str, Mapping[str, float]] = {
    "macs": _COUNT,
    "params": _COUNT,
    "size": _BYTES,
    "memory": _BYTES,
    "latency": _MILLISECONDS,
}
_EXAMPLES = {"macs": "20M", "params": "300k", "size": "4.2MB", "memory": "8MB", "latency": "12ms"}


@dataclass(frozen=True)
class Budget:
    """A limit on one resource: `value` in its base unit (count, bytes, ms), or as a share of the original's."""

    resource: str
    value: float
    relative: bool

    def limit(self, original: float) -> float:
        """The limit in base units, given what the original model costs."""
        return self.value * original if self.relative else self.value

    def __str__(self) -> str:
        if self.relative:
            return f"{self.resource}={self.value:g}x"
        return f"{self.resource}={self.value:.15g}{'ms' if self.resource == 'latency' else ''}"


def parse_budgets(
    given: str | Sequence[str] | Mapping[str, str | float], known: Collection[str] = RESOURCES
) -> tuple[Budget, ...]:
    """Read budgets as the user writes them: one or several of `RESOURCE=VALUE`, VALUE like 0.5x, 50%, 4.2MB, 12ms.

    `known` names the resources that exist; those beyond the built-in ones take counts. A mapping's numbers are in base
    units. Raises NetadaptError (code `budget`).
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
    if resource not in known:
        near = difflib.get_close_matches(resource, list(known), 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise NetadaptError(f"unknown resource '{resource}' in a budget", hint=hint, code="budget")
    units = _UNITS.get(resource, _COUNT)
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([A-Za-zµ%]*)", value)
        unit = match[2].lower() if match else None
        relative = unit in ("x", "%")
        if match is None or unit is None or not (relative or unit in units):
            example = _EXAMPLES.get(resource, "1000")
            raise NetadaptError(
                f"budget {resource}={value} is not an amount of {resource}",
                hint=f"write {resource}={example} or {resource}=0.5x",
                code="budget",
            )
        amount = float(match[1]) * (0.01 if unit == "%" else 1.0 if unit == "x" else units[unit])
    else:
        amount, relative = float(value), False
    if not (math.isfinite(amount) and amount > 0):
        raise NetadaptError(f"budget {resource}={value} is not above zero", code="budget")
    return Budget(resource, amount, relative)
