"""Amounts as people write them: `12ms`, `4.2 MB`, `1.3 M`, `0.5x`, `2%`. 1 MB is 10^6 bytes, 1 MiB is 2^20."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from netadapt_onnx.errors import NetadaptError

_COUNT = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9} | {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_UNITS: Mapping[str, Mapping[str, float]] = {
    "macs": _COUNT,
    "params": _COUNT,
    "size": _BYTES,
    "memory": _BYTES,
    "latency": _MILLISECONDS,
    "energy": {"uj": 1e-3, "µj": 1e-3, "mj": 1.0, "j": 1e3},
}
EXAMPLES = {"macs": "20M", "params": "300k", "size": "4.2MB", "memory": "8MB", "latency": "12ms", "energy": "5mJ"}
# What a number before it is divided by: 70 / 100 is 0.7, and 70 * 0.01 is not.
_SHARES = {"x": 1.0, "%": 100.0}
_NUMBER = r"([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([A-Za-zµ%]*)"
# A smaller number of bytes needs its unit: whoever writes size=4 has megabytes in mind.
LEAST_BARE_BYTES = 1000
# The unit that a number without one is asked about first.
_LIKELY_UNITS = {"size": "MB", "memory": "MB", "latency": "ms", "energy": "mJ"}


def parse_amount(resource: str, text: str) -> tuple[float, bool] | None:
    """The amount in the resource's base unit (count, bytes, ms) or, True beside it, as a share; None if it is neither.

    A resource that is not built in takes counts. Bytes below 1,000 need a unit.
    """
    match = re.fullmatch(_NUMBER, text.strip())
    if match is None:
        return None
    number, unit, units = float(match[1]), match[2].lower(), _UNITS.get(resource, _COUNT)
    if unit in _SHARES:
        return (number / _SHARES[unit], True) if math.isfinite(number) else None
    if unit not in units or (not unit and needs_unit(resource, number)):
        return None
    value = number * units[unit]
    return (value, False) if math.isfinite(value) else None


def needs_unit(resource: str, value: float) -> bool:
    """Whether a number alone is no amount of a built-in resource."""
    units = _UNITS.get(resource, _COUNT)
    return "" not in units or (units is _BYTES and 0 < value < LEAST_BARE_BYTES)


def unit_hint(resource: str, text: str) -> str:
    """What to write for a number that lacks its unit; empty for a text that is something else."""
    match = re.fullmatch(_NUMBER, text.strip())
    if match is None or match[2] or not needs_unit(resource, float(match[1])):
        return ""
    likely = f"write {resource}={match[1]}{_LIKELY_UNITS[resource]}"
    return f"{likely}, or {resource}={match[1]}B for bytes" if _UNITS[resource] is _BYTES else likely


def parse_share(text: str) -> float | None:
    """A share as a fraction from `0.5x`, `50%` or `0.5`; None for what is none of them."""
    match = re.fullmatch(_NUMBER, text.strip())
    if match is None or (unit := match[2].lower()) not in ("", *_SHARES):
        return None
    value = float(match[1]) / _SHARES.get(unit, 1.0)
    return value if math.isfinite(value) else None


_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float | None:
    """A duration in seconds from `60s`, `2m`, `1.5h` or a number of seconds; None if it is none, or not above zero."""
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _SECONDS or float(match[1]) <= 0:
        return None
    return float(match[1]) * _SECONDS[match[2]]


def seconds_of(duration: str | float, flag: str = "--max-time") -> float:
    """A duration such as 30m, 90s or 1.5h (or a number of seconds) in seconds. Raises NetadaptError."""
    if isinstance(duration, int | float):
        return float(duration)
    seconds = parse_seconds(duration)
    if seconds is None:
        raise NetadaptError(f"{flag} {duration}: not a duration", hint="write 90s, 30m or 1.5h", code="usage")
    return seconds
