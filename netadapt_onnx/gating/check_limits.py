"""Checks limits against numbers: what is too much, by how much, and due to which layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from netadapt_onnx.common import render
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.baseline import Reference
from netadapt_onnx.gating.limits import Limit
from netadapt_onnx.gating.matching import match_layers
from netadapt_onnx.gating.records import Interval, Layer
from netadapt_onnx.gating.result import Blame, Check, Unit

LAYERS_TO_BLAME = 5
_UNITS: Mapping[str, Unit] = {"size": "bytes", "memory": "bytes", "latency": "ms", "accuracy": "fraction"}


def check_maximum(limit: Limit, value: float) -> Check:
    """Check an absolute limit on a resource."""
    ok = value <= limit.value
    amount, bound = distinct_amounts(limit.resource, value, limit.value)
    message = f"{limit.resource} {amount}, the limit is {bound}"
    return Check(limit.name, value, limit.value, ok, message, unit=_unit(limit.resource))


def check_minimum(limit: Limit, value: float, metric: str) -> Check:
    """Check an accuracy that must be reached."""
    message = f"{metric} {100 * value:.2f} %, at least {100 * limit.value:.4g} % is required"
    return Check(limit.name, value, None, value >= limit.value, message, min=limit.value, unit="fraction")


def check_growth(limit: Limit, value: float, before: float) -> Check:
    """Check a limit on a counted resource's growth."""
    increase = value / before - 1 if before else (math.inf if value else 0.0)
    # 102 of 100 at a limit of 2% is no excess: the sums are of floating-point numbers.
    ok = value <= before * (1 + limit.value) * (1 + 1e-12)
    now, then = distinct_amounts(limit.resource, value, before)
    message = (
        f"{limit.resource} {now}, the baseline has {then}: {_signed(increase)}, "
        f"at most {_signed(limit.value)} is allowed"
    )
    return Check(limit.name, increase, limit.value, ok, message, unit="fraction", baseline=before)


def check_slowdown(limit: Limit, increase: Interval, before_ms: float, how: str) -> Check:
    """Check a limit on latency's growth, which is exceeded only where the whole interval is beyond it."""
    ok = increase.low <= limit.value
    message = (
        f"latency {_signed(increase.median)} ({_signed(increase.low)} to {_signed(increase.high)}, {how}), "
        f"at most {_signed(limit.value)} is allowed"
    )
    return Check(limit.name, increase.median, limit.value, ok, message, unit="fraction", baseline=before_ms)


def relative_increase(now: Interval, then: Interval) -> Interval:
    """How much longer one latency is than another, as a fraction; above the limit only where the intervals part."""
    return Interval(now.median / then.median - 1, now.low / then.high - 1, now.high / then.low - 1)


def inconclusive_check(limit: Limit, error: NetadaptError) -> Check:
    """The check of a limit that could not be measured, and is therefore never kept."""
    low, high = (limit.value, None) if limit.kind == "min" else (None, limit.value)
    unit: Unit = "fraction" if limit.kind != "max" else _unit(limit.resource)
    return Check(limit.name, None, high, False, error.message, min=low, unit=unit, code=error.code, hint=error.hint)


def new_model_check(limit: Limit) -> Check:
    """The check of a limit on growth for a model that the baseline does not have, where that is allowed."""
    return Check(limit.name, None, limit.value, True, "new: the baseline does not have it", unit="fraction")


def layers_to_blame(check: Check, layers: Sequence[Layer], reference: Reference | None) -> tuple[Blame, ...]:
    """List the layers that a failed limit on size, params or macs is due to, those that grew most first."""
    resource = check.limit.removesuffix(" increase")
    if check.ok or not check.conclusive or resource not in ("size", "params", "macs"):
        return ()
    counted = "macs" if resource == "macs" else "params"  # a file's bytes are its parameters'
    blames = []
    for before, after in match_layers(reference.layers if reference else (), layers):
        layer = after or before
        assert layer is not None
        old, new = (None if side is None else getattr(side, counted) for side in (before, after))
        blames.append(Blame(counted, layer.name, layer.op, old, new))
    guilty = [blame for blame in blames if _growth(blame) > 0]
    return tuple(sorted(guilty, key=_growth, reverse=True)[:LAYERS_TO_BLAME])


def explain_growth(check: Check) -> Check:
    """Add a hint to the failed check of a file that grew although no layer did."""
    if check.ok or not check.conclusive or check.limit != "size increase":
        return check
    return replace(
        check,
        message=f"{check.message}; no layer has more parameters, so compare the types and the metadata with `diff`",
    )


def distinct_amounts(resource: str, a: float, b: float) -> tuple[str, str]:
    """Write two amounts with units, in full where they differ by less than three digits show."""
    shown = render.amount(resource, a), render.amount(resource, b)
    return (f"{a:,.15g}", f"{b:,.15g}") if shown[0] == shown[1] and a != b else shown


def _growth(blame: Blame) -> int:
    return (blame.after or 0) - (blame.before or 0)


def _signed(fraction: float) -> str:
    return "from nothing" if math.isinf(fraction) else f"{100 * fraction:+.3g} %"


def _unit(resource: str) -> Unit:
    return _UNITS.get(resource, "count")
