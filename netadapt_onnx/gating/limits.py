"""Limits: `size=4 MB` that may not be exceeded, `size=2%` that it may grow, `accuracy=0.9` that must be reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from netadapt_onnx.common.amounts import EXAMPLES, parse_amount, parse_share, unit_hint
from netadapt_onnx.errors import NetadaptError, did_you_mean

Kind = Literal["max", "max-increase", "min"]
LimitArguments = Sequence[str] | Mapping[str, str | float]

RESOURCES = ("size", "params", "macs", "memory", "latency")
_RESOURCES: Mapping[Kind, tuple[str, ...]] = {"max": RESOURCES, "max-increase": RESOURCES, "min": ("accuracy",)}
_EXAMPLES: Mapping[Kind, str] = {"max-increase": "2%", "min": "0.9"}


@dataclass(frozen=True)
class Limit:
    """A limit; its `value` is in the base unit (bytes, count, ms; a fraction for increases and accuracies)."""

    kind: Kind
    resource: str
    value: float

    @property
    def name(self) -> str:
        """The limit's name in results: `size`, `size increase`, `accuracy`."""
        return f"{self.resource} increase" if self.kind == "max-increase" else self.resource


def parse_limits(limits: Mapping[Kind, LimitArguments]) -> tuple[Limit, ...]:
    """Read the limits of each kind, as `RESOURCE=VALUE` or as a mapping; numbers are in base units.

    Raises NetadaptError (`limit`).
    """
    return tuple(limit for kind, texts in limits.items() for limit in _parse(kind, texts))


def _parse(kind: Kind, limits: LimitArguments) -> tuple[Limit, ...]:
    pairs = list(limits.items()) if isinstance(limits, Mapping) else [_split(kind, text) for text in limits]
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _invalid(f"two limits {kind} for {twice}", "give each resource once")
    return tuple(_limit(kind, name, value) for name, value in pairs)


def _split(kind: Kind, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        resource = _RESOURCES[kind][0]
        raise _invalid(f"--{kind} {text} is not RESOURCE=VALUE", f"e.g. {resource}={_example(kind, resource)}")
    return name.strip(), value.strip()


def _limit(kind: Kind, name: str, value: str | float) -> Limit:
    if name not in _RESOURCES[kind]:
        hint = did_you_mean(name, _RESOURCES[kind], f"known: {', '.join(_RESOURCES[kind])}")
        raise _invalid(f"{kind} {name}={value}: there is no such resource to limit", hint)
    if kind == "max" and isinstance(value, str) and (hint := unit_hint(name, value)):
        raise _invalid(f"max {name}={value} has no unit", hint)
    amount = _amount(kind, name, value)
    if amount is None or not math.isfinite(amount) or amount < 0 or (kind == "min" and amount > 1):
        raise _invalid(
            f"{kind} {name}={value} is not {'a share' if kind != 'max' else f'an amount of {name}'}",
            f"write {name}={_example(kind, name)}",
        )
    return Limit(kind, name, amount)


def _example(kind: Kind, resource: str) -> str:
    return _EXAMPLES.get(kind) or EXAMPLES[resource]


def _amount(kind: Kind, name: str, value: str | float) -> float | None:
    """A limit in base units, and a share as a fraction (`2%`, `0.02x` and `0.02` alike); None for what is neither."""
    if not isinstance(value, str):
        return float(value)
    if kind == "max":
        parsed = parse_amount(name, value)
        return parsed[0] if parsed is not None and not parsed[1] else None
    share = parse_share(value)
    if kind == "max-increase" and value.strip().lower().endswith("x") and share is not None and share >= 1:
        return None  # 1.02x is meant as a size, and would allow it to double
    return share


def _invalid(message: str, hint: str) -> NetadaptError:
    return NetadaptError(message, hint=hint, code="limit")
