"""Breaks a model's predicted time down, layer by layer and group by group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from netadapt_onnx.profilers.table.file import Shapes
from netadapt_onnx.profilers.table.predict import Table


@dataclass(frozen=True)
class Part:
    """The predicted time of some layers.

    Attributes:
        name: a layer's or a group's.
        layers: those that run as one kernel, or belong to the group.
        group: the group of their output channels, if any.
        latency_ms: their time.
        share: its share of the model's time.
        cumulated: the share of this and all slower parts together.
    """

    name: str
    layers: tuple[str, ...]
    group: str | None
    latency_ms: float
    share: float
    cumulated: float


def unit_ms(table: Table, shapes: Shapes) -> dict[str, float]:
    """Predict the milliseconds of each unit by its main layer's name; they add up to the predicted latency."""
    times = table.predict_units(shapes)
    scale = table.predict(shapes) / max(1e-9, sum(times.values()))
    return {name: us * scale for name, us in times.items()}


def by_layer(table: Table, shapes: Shapes, owner: Mapping[str, str]) -> tuple[Part, ...]:
    """Predict the time of each unit, the slowest first. `owner`: the group of a layer's output channels."""
    layers: dict[str, list[str]] = {}
    for layer, unit in table.units.items():
        layers.setdefault(unit.name, []).append(layer)
    return _ordered((name, layers[name], owner.get(name), ms) for name, ms in unit_ms(table, shapes).items())


def by_group(table: Table, shapes: Shapes, owner: Mapping[str, str]) -> tuple[Part, ...]:
    """Predict the time of each group's layers, the slowest first; those of no group are one part of the name ''."""
    layers: dict[str, list[str]] = {}
    times: dict[str, float] = {}
    for name, ms in unit_ms(table, shapes).items():
        group = owner.get(name, "")
        layers.setdefault(group, []).append(name)
        times[group] = times.get(group, 0.0) + ms
    return _ordered((group, layers[group], group or None, ms) for group, ms in times.items())


def _ordered(parts: Iterable[tuple[str, list[str], str | None, float]]) -> tuple[Part, ...]:
    rows = sorted(parts, key=lambda part: -part[3])
    sums = accumulate(ms for *_, ms in rows)
    total = max(1e-9, sum(ms for *_, ms in rows))
    return tuple(
        Part(name, tuple(layers), group, ms, ms / total, so_far / total)
        for (name, layers, group, ms), so_far in zip(rows, sums, strict=True)
    )
