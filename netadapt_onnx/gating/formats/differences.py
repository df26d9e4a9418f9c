"""`diff` as text and as Markdown. Lines start with our own words, never with a name."""

from __future__ import annotations

from collections.abc import Callable

from netadapt_onnx.common import render
from netadapt_onnx.common.resources import FIELDS
from netadapt_onnx.gating.compare import Diff, LayerDiff, LayerSide
from netadapt_onnx.gating.formats.escape import code, printable

_RESOURCES = {FIELDS[name]: name for name in ("params", "macs", "size", "memory")}
_NAMES = {"size": "file size", "memory": "peak activations"}
Cells = list[list[str]]


def text(found: Diff) -> str:
    """Totals, the layers that differ, and the rest, for a terminal."""
    parts = [render.table(_totals(found), ["", "a", "b", "change"])]
    layers = _layers(found, printable)
    if layers:
        parts.append(render.table(layers, ["", "layer", "op", "weights", "params", "macs"], text_columns=4))
    rest = _rest(found, printable)
    if rest:
        parts.append(render.listing(rest, ["", "of", "a", "b"]))
    parts.append(_headline(found))
    return "\n\n".join(parts)


def markdown(found: Diff) -> str:
    """The same in Markdown."""
    parts = [f"### {_headline(found)}", render.markdown(_totals(found), ["", "a", "b", "change"])]
    layers = _layers(found, code)
    if layers:
        parts.append(render.markdown(layers, ["", "layer", "op", "weights", "params", "macs"]))
    rest = _rest(found, code)
    if rest:
        parts.append(render.markdown(rest, ["", "of", "a", "b"]))
    return "\n\n".join(parts) + "\n"


def _totals(found: Diff) -> Cells:
    rows = []
    for key, resource in _RESOURCES.items():
        a, b = found.totals[key]
        amounts = ["unknown" if value is None else render.amount(resource, value) for value in (a, b)]
        change = f"{100 * (b / a - 1):+.3g} %" if a and b is not None else ""
        rows.append([_NAMES.get(resource, resource), *amounts, change])
    return rows


def _layers(found: Diff, name: Callable[[object], str]) -> Cells:
    return [
        [
            layer.change,
            name(_renamed(layer)),
            name(_both(layer, lambda side: side.op)),
            name(_both(layer, _typed if layer.change == "type" else _shape)),
            _both(layer, lambda side: render.count(side.params)),
            _both(layer, lambda side: "unknown" if side.macs is None else render.count(side.macs)),
        ]
        for layer in found.layers
    ]


def _renamed(layer: LayerDiff) -> str:
    return _both(layer, lambda side: side.name)


def _shape(side: LayerSide) -> str:
    return side.weights[0] if side.weights else ""


def _typed(side: LayerSide) -> str:
    return f"{_shape(side)} {side.type}"


def _both(layer: LayerDiff, of: Callable[[LayerSide], str]) -> str:
    """`a -> b`, or the one value that both have."""
    sides = [of(side) for side in (layer.a, layer.b) if side is not None]
    return " -> ".join(dict.fromkeys(sides))


def _rest(found: Diff, name: Callable[[object], str]) -> Cells:
    tables = {"opset": found.opset, "input": found.inputs, "output": found.outputs, "metadata": found.metadata}
    return [
        [what, name(key), *("" if side is None else name(side) for side in sides)]
        for what, entries in tables.items()
        for key, sides in entries.items()
    ]


def _headline(found: Diff) -> str:
    if found.identical:
        return "the files are identical"
    rest = any((found.opset, found.inputs, found.outputs, found.metadata))
    if not found.layers:
        return "no layer differs" + ("" if rest else ", only the files do")
    return f"{len(found.layers)} of {len(found.layers) + found.unchanged} layers differ"
