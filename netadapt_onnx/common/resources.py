"""The resources that a model costs: their names in budgets and their fields in results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LATENCY = "latency"
# Resources that are known exactly of any model, and those that every result may show, in the order of display.
COUNTED = ("macs", "params", "size", "memory")
RESOURCES = (*COUNTED, LATENCY)
# What is measured without a table: energy in mJ, and whatever the user's own program says.
ENERGY, CUSTOM = "energy", "custom"
SEARCHED = (*RESOURCES, ENERGY, CUSTOM)
# The field of `Resources`, and of the JSON of a result, that holds each resource.
FIELDS = {
    "macs": "macs",
    "params": "params",
    "size": "size_bytes",
    "memory": "memory_bytes",
    LATENCY: "latency_ms",
}


@dataclass(frozen=True)
class Resources:
    """What a model costs at batch 1, or the batch size asked for. `latency_ms`: measured median, if it was measured."""

    params: int
    macs: int
    size_bytes: int
    memory_bytes: int
    latency_ms: float | None = None


def amounts(record: object, resources: Iterable[str] = COUNTED) -> dict[str, Any]:
    """The amounts by resource of anything that has the fields of `Resources`, in base units.

    >>> amounts(Resources(params=10, macs=20, size_bytes=30, memory_bytes=40))
    {'macs': 20, 'params': 10, 'size': 30, 'memory': 40}
    """
    return {resource: getattr(record, FIELDS[resource]) for resource in resources}
