"""Compares two models' facts: totals, layers, inputs, outputs, metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from netadapt_onnx.gating.matching import match_layers
from netadapt_onnx.gating.records import Facts, Layer

# added, removed; widths: other shapes of weights; type: other types; weights: other values; cost: the same weights at
# other sizes of maps; name: nothing but the name.
Change = Literal["added", "removed", "widths", "type", "weights", "cost", "name"]
Entries = dict[str, tuple[str | None, str | None]]


@dataclass(frozen=True)
class LayerSide:
    """A layer in one of the models; `weights` are shapes and `type` their element types."""

    name: str
    op: str
    params: int
    macs: int | None
    weights: tuple[str, ...]
    type: str


@dataclass(frozen=True)
class LayerDiff:
    """A layer that differs; a side is None where the model does not have it."""

    name: str
    change: Change
    a: LayerSide | None
    b: LayerSide | None


@dataclass(frozen=True)
class Diff:
    """All that differs between two models.

    `totals` are of both models, by resource (None: only a run would show it); `layers` are those that differ, and
    `unchanged` counts the others; the rest is keyed by domain or name. `identical`: the files are equal, byte by byte.
    """

    totals: Mapping[str, tuple[float | None, float | None]]
    layers: tuple[LayerDiff, ...]
    unchanged: int
    opset: Entries
    inputs: Entries
    outputs: Entries
    metadata: Entries
    identical: bool


def compare_facts(a: Facts, b: Facts) -> Diff:
    """Compare two models' facts."""
    pairs = match_layers(a.layers, b.layers)
    layers = []
    for before, after in pairs:
        layer, change = after or before, _change(before, after)
        if layer is not None and change is not None:
            layers.append(LayerDiff(layer.name, change, _side(before), _side(after)))
    return Diff(
        {
            "params": (a.params, b.params),
            "macs": (a.macs, b.macs),
            "size_bytes": (a.size_bytes, b.size_bytes),
            "memory_bytes": (a.memory_bytes, b.memory_bytes),
        },
        tuple(layers),
        len(pairs) - len(layers),
        _entries({k: str(v) for k, v in a.opset.items()}, {k: str(v) for k, v in b.opset.items()}),
        _entries(a.inputs, b.inputs),
        _entries(a.outputs, b.outputs),
        _entries(a.metadata, b.metadata),
        a.sha256 == b.sha256,
    )


def _change(a: Layer | None, b: Layer | None) -> Change | None:
    """The first reason that holds."""
    if a is None or b is None:
        return "added" if a is None else "removed"
    reasons: dict[Change, bool] = {
        "widths": a.weights != b.weights,
        "type": a.dtypes != b.dtypes,
        "weights": a.digest != b.digest,
        "cost": (a.params, a.macs) != (b.params, b.macs),
        "name": a.name != b.name,
    }
    return next((change for change, holds in reasons.items() if holds), None)


def _side(layer: Layer | None) -> LayerSide | None:
    if layer is None:
        return None
    return LayerSide(layer.name, layer.op, layer.params, layer.macs, layer.weights, ", ".join(layer.dtypes))


def _entries(a: Mapping[str, str], b: Mapping[str, str]) -> Entries:
    """The entries in which two mappings differ."""
    return {key: (a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)}
