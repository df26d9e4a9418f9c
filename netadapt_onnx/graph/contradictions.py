"""What ONNX's shape inference lets pass and onnxruntime refuses when it runs."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import STANDARD, node_name
from netadapt_onnx.graph.shapes import Specs

# The value of a tensor, or None where it is not at hand.
Value = Callable[[str], np.ndarray | None]


def refuse_contradiction(node: onnx.NodeProto, specs: Specs, value: Value) -> None:
    """Raise NetadaptError (`unrunnable`) for shapes of inputs that do not fit together."""
    if node.domain not in STANDARD:
        return
    _refuse_other_axes(node, specs)
    if not node.input or node.input[0] not in specs:
        return
    if node.op_type == "Conv" and len(node.input) > 1 and node.input[1] in specs:
        x, w = specs[node.input[0]][0], specs[node.input[1]][0]
        _refuse_channels(node, x, w)
        _refuse_kernel(node, x, w)
    if node.op_type == "Reshape" and len(node.input) > 1:
        _refuse_other_count(node, specs[node.input[0]][0], value(node.input[1]))
    if node.op_type in _SAME_SIZE:
        _refuse_other_size(node, specs)
    if node.op_type in _GATES:
        _refuse_other_units(node, specs)
    if node.op_type == "Pad" and next((a.s for a in node.attribute if a.name == "mode"), b"") == b"reflect":
        _refuse_reflection(node, specs[node.input[0]][0], value)


# By operator the inputs that list axes, sizes or positions: vectors, also where they list one alone.
_LISTS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 3),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}


def _refuse_other_axes(node: onnx.NodeProto, specs: Specs) -> None:
    """A list has one axis."""
    for slot in _LISTS.get(node.op_type, ()):
        name = node.input[slot] if slot < len(node.input) else ""
        if name in specs and len(specs[name][0]) != 1:
            raise _contradiction(node, f"{node.op_type} takes a list, and '{name}' has the shape {specs[name][0]}")


# By operator an input that holds weights, the axis along which it meets the first input, and that input's axis.
_SAME_SIZE = {
    "LSTM": (1, 2, 2),
    "GRU": (1, 2, 2),
    "RNN": (1, 2, 2),
    "ConvTranspose": (1, 0, 1),
    "InstanceNormalization": (1, 0, 1),
    "LayerNormalization": (1, -1, -1),
}


# How many parts the weights of a recurrent layer have for each hidden unit.
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _refuse_other_units(node: onnx.NodeProto, specs: Specs) -> None:
    """Weights w (D, gates * H, I), r (D, gates * H, H) and b (D, 2 * gates * H) are of `hidden_size` units."""
    hidden = next((a.i for a in node.attribute if a.name == "hidden_size"), None)
    if hidden is None:
        return
    rows = _GATES[node.op_type] * hidden
    for slot, expected in ((1, (rows,)), (2, (rows, hidden)), (3, (2 * rows,))):
        name = node.input[slot] if slot < len(node.input) else ""
        if name in specs and specs[name][0][1 : 1 + len(expected)] != expected:
            raise _contradiction(
                node, f"{node.op_type} weights '{name}' {specs[name][0]} are not those of {hidden} hidden units"
            )


def _refuse_other_count(node: onnx.NodeProto, x: tuple[int, ...], target: np.ndarray | None) -> None:
    """A Reshape keeps the number of elements."""
    if target is None or target.ndim != 1 or any(a.name == "allowzero" and a.i for a in node.attribute):
        return
    sizes = [x[k] if n == 0 and k < len(x) else int(n) for k, n in enumerate(target.tolist())]
    product = prod(n for n in sizes if n > 0)
    if min(sizes, default=1) < -1 or 0 in sizes or 0 in x:
        return
    if prod(x) != product and (-1 not in sizes or prod(x) % product):
        raise _contradiction(node, f"Reshape from {x} to {sizes} changes the number of elements")


def _refuse_other_size(node: onnx.NodeProto, specs: Specs) -> None:
    slot, own, axis = _SAME_SIZE[node.op_type]
    if (
        len(node.input) <= slot
        or node.input[slot] not in specs
        or any(a.name == "layout" and a.i for a in node.attribute)
    ):
        return
    x, w = specs[node.input[0]][0], specs[node.input[slot]][0]
    if len(x) > axis and len(w) > own and x and w and x[axis] != w[own] != 1:
        raise _contradiction(node, f"{node.op_type} weights {w} do not fit their input {x}")


def _refuse_channels(node: onnx.NodeProto, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if len(x) > 1 and len(w) > 1 and x[1] != w[1] * groups:
        raise _contradiction(
            node, f"Conv weights {w} in {groups} group(s) do not fit the {x[1]} channels of their input"
        )


def _refuse_kernel(node: onnx.NodeProto, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    """A kernel has to fit into what it reads, padding included."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    axes = len(x) - 2
    if len(x) != len(w) or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return
    pads = attributes.get("pads", [0] * 2 * axes)
    dilations = attributes.get("dilations", [1] * axes)
    if len(pads) != 2 * axes or len(dilations) != axes:
        return
    for axis in range(axes):
        size, reach = x[2 + axis] + pads[axis] + pads[axes + axis], dilations[axis] * (w[2 + axis] - 1) + 1
        if size < reach:
            raise _contradiction(node, f"Conv's kernel reaches over {reach} positions and its padded input has {size}")


def _refuse_reflection(node: onnx.NodeProto, x: tuple[int, ...], value: Value) -> None:
    """A reflection is at most as long as what it reflects, less its edge."""
    values = value(node.input[1]) if len(node.input) > 1 else None
    pads = [int(p) for p in values.reshape(-1)] if values is not None else _attribute(node)
    axes = value(node.input[3]) if len(node.input) > 3 and node.input[3] else np.arange(len(x))
    if axes is None or not pads or len(pads) != 2 * axes.size:
        return
    for axis, pad in zip([*axes.reshape(-1).tolist()] * 2, pads, strict=True):
        if -len(x) <= axis < len(x) and pad > 0 and pad >= x[axis]:
            raise _contradiction(node, f"Pad reflects {pad} positions of the {x[axis]} along axis {axis} of its input")


def _contradiction(node: onnx.NodeProto, message: str) -> NetadaptError:
    return NetadaptError(message, node=node_name(node), code="unrunnable")


def _attribute(node: onnx.NodeProto) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name in ("pads", "paddings")), [])
