"""`diff` as text and as Markdown. Lines start with our own words, never with a name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from netadapt_onnx.common import render
from netadapt_onnx.common.resources import FIELDS
from netadapt_onnx.gating.compare import Diff, LayerDiff, LayerSide
from netadapt_onnx.gating.formats.escape_names import code, printable

_RESOURCES = {FIELDS[name]: name for name in ("params", "macs", "size", "memory")}
_NAMES = {"size": "file size", "memory": "peak activations"}
Cells = list[list[str]]
Form = Callable[[Cells, list[str]], str]


def text(diff: Diff) -> str:
    """Format a diff for a terminal: totals, the layers that differ, and the rest."""
    tables = _tables(diff, printable, render.table, partial(render.table, text_columns=4), render.listing)
    return "\n\n".join([*tables, _headline(diff)])


def markdown(diff: Diff) -> str:
    """Format a diff as Markdown."""
    tables = _tables(diff, code, render.markdown, render.markdown, render.markdown)
    return "\n\n".join([f"### {_headline(diff)}", *tables]) + "\n"


def _tables(diff: Diff, name: Callable[[object], str], *forms: Form) -> list[str]:
    """The totals, the layers that differ, and the rest, each in its form; those that have rows."""
    tables = (
        (_totals(diff), ["", "a", "b", "change"]),
        (_layers(diff, name), ["", "layer", "op", "weights", "params", "macs"]),
        (_rest(diff, name), ["", "of", "a", "b"]),
    )
    return [form(rows, headers) for form, (rows, headers) in zip(forms, tables, strict=True) if rows]


def _totals(diff: Diff) -> Cells:
    rows = []
    for key, resource in _RESOURCES.items():
        a, b = diff.totals[key]
        amounts = ["unknown" if value is None else render.amount(resource, value) for value in (a, b)]
        change = f"{100 * (b / a - 1):+.3g} %" if a and b is not None else ""
        rows.append([_NAMES.get(resource, resource), *amounts, change])
    return rows


def _layers(diff: Diff, name: Callable[[object], str]) -> Cells:
    return [
        [
            layer.change,
            name(_both(layer, lambda side: side.name)),
            name(_both(layer, lambda side: side.op)),
            name(_both(layer, _typed if layer.change == "type" else _shape)),
            _both(layer, lambda side: render.count(side.params)),
            _both(layer, lambda side: "unknown" if side.macs is None else render.count(side.macs)),
        ]
        for layer in diff.layers
    ]


def _shape(side: LayerSide) -> str:
    return side.weights[0] if side.weights else ""


def _typed(side: LayerSide) -> str:
    return f"{_shape(side)} {side.type}"


def _both(layer: LayerDiff, of: Callable[[LayerSide], str]) -> str:
    """`a -> b`, or the one value that both have."""
    sides = [of(side) for side in (layer.a, layer.b) if side is not None]
    return " -> ".join(dict.fromkeys(sides))


def _rest(diff: Diff, name: Callable[[object], str]) -> Cells:
    tables = {"opset": diff.opset, "input": diff.inputs, "output": diff.outputs, "metadata": diff.metadata}
    return [
        [what, name(key), *("" if side is None else name(side) for side in sides)]
        for what, entries in tables.items()
        for key, sides in entries.items()
    ]


def _headline(diff: Diff) -> str:
    if diff.identical:
        return "the files are identical"
    rest = any((diff.opset, diff.inputs, diff.outputs, diff.metadata))
    if not diff.layers:
        return "no layer differs" + ("" if rest else ", only the files do")
    return f"{len(diff.layers)} of {len(diff.layers) + diff.unchanged} layers differ"
