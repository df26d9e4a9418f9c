"""What ONNX's shape inference lets pass and onnxruntime refuses when it runs."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import STANDARD, attribute, node_name
from netadapt_onnx.graph.shapes import Shape, Specs

# The value of a tensor, or None where it is not at hand.
Value = Callable[[str], np.ndarray | None]


def refuse_contradiction(node: onnx.NodeProto, specs: Specs, value: Value) -> None:
    """Raise NetadaptError (`unrunnable`) for shapes of inputs that do not fit together."""
    if node.domain not in STANDARD:
        return
    _refuse_other_axes(node, specs)
    x = _shape(node, 0, specs)
    if x is None:
        return
    if node.op_type == "Conv" and (w := _shape(node, 1, specs)) is not None:
        _refuse_channels(node, x, w)
        _refuse_kernel(node, x, w)
    if node.op_type == "Reshape" and len(node.input) > 1:
        _refuse_other_count(node, x, value(node.input[1]))
    if node.op_type in _SAME_SIZE:
        _refuse_other_size(node, x, specs)
    if node.op_type in _GATES:
        _refuse_other_units(node, specs)
    if node.op_type == "Pad" and attribute(node, "mode") == b"reflect":
        _refuse_reflection(node, x, value)


def _shape(node: onnx.NodeProto, slot: int, specs: Specs) -> Shape | None:
    """The shape of an input; None where the node has none there, or its shape is not known."""
    name = node.input[slot] if slot < len(node.input) else ""
    return specs[name][0] if name in specs else None


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
        shape = _shape(node, slot, specs)
        if shape is not None and len(shape) != 1:
            raise _contradiction(node, f"{node.op_type} takes a list, and '{node.input[slot]}' has the shape {shape}")


# By operator an input that holds weights, the axis along which it meets the first input, and that input's axis.
_SAME_SIZE = {
    "LSTM": (1, 2, 2),
    "GRU": (1, 2, 2),
    "RNN": (1, 2, 2),
    "ConvTranspose": (1, 0, 1),
    "InstanceNormalization": (1, 0, 1),
    "LayerNormalization": (1, -1, -1),
}


def _refuse_other_size(node: onnx.NodeProto, x: Shape, specs: Specs) -> None:
    slot, own, axis = _SAME_SIZE[node.op_type]
    w = _shape(node, slot, specs)
    if w is None or attribute(node, "layout"):
        return
    if len(x) > axis and len(w) > own and x and w and x[axis] != w[own] != 1:
        raise _contradiction(node, f"{node.op_type} weights {w} do not fit their input {x}")


# How many parts the weights of a recurrent layer have for each hidden unit.
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _refuse_other_units(node: onnx.NodeProto, specs: Specs) -> None:
    """Weights w (D, gates * H, I), r (D, gates * H, H) and b (D, 2 * gates * H) are of `hidden_size` units."""
    hidden = attribute(node, "hidden_size")
    if hidden is None:
        return
    rows = _GATES[node.op_type] * hidden
    for slot, expected in ((1, (rows,)), (2, (rows, hidden)), (3, (2 * rows,))):
        shape = _shape(node, slot, specs)
        if shape is not None and shape[1 : 1 + len(expected)] != expected:
            weights = f"{node.op_type} weights '{node.input[slot]}' {shape}"
            raise _contradiction(node, f"{weights} are not those of {hidden} hidden units")


def _refuse_other_count(node: onnx.NodeProto, x: Shape, target: np.ndarray | None) -> None:
    """A Reshape keeps the number of elements."""
    if target is None or target.ndim != 1 or attribute(node, "allowzero"):
        return
    sizes = [x[k] if n == 0 and k < len(x) else int(n) for k, n in enumerate(target.tolist())]
    product = prod(n for n in sizes if n > 0)
    if min(sizes, default=1) < -1 or 0 in sizes or 0 in x:
        return
    if prod(x) != product and (-1 not in sizes or prod(x) % product):
        raise _contradiction(node, f"Reshape from {x} to {sizes} changes the number of elements")


def _refuse_channels(node: onnx.NodeProto, x: Shape, w: Shape) -> None:
    groups = attribute(node, "group", 1)
    if len(x) > 1 and len(w) > 1 and x[1] != w[1] * groups:
        message = f"Conv weights {w} in {groups} group(s) do not fit the {x[1]} channels of their input"
        raise _contradiction(node, message)


def _refuse_kernel(node: onnx.NodeProto, x: Shape, w: Shape) -> None:
    """A kernel has to fit into what it reads, padding included."""
    axes = len(x) - 2
    if len(x) != len(w) or attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return
    pads = attribute(node, "pads", [0] * 2 * axes)
    dilations = attribute(node, "dilations", [1] * axes)
    if len(pads) != 2 * axes or len(dilations) != axes:
        return
    for axis in range(axes):
        size, reach = x[2 + axis] + pads[axis] + pads[axes + axis], dilations[axis] * (w[2 + axis] - 1) + 1
        if size < reach:
            raise _contradiction(node, f"Conv's kernel reaches over {reach} positions and its padded input has {size}")


def _refuse_reflection(node: onnx.NodeProto, x: Shape, value: Value) -> None:
    """A reflection is at most as long as what it reflects, less its edge."""
    values = value(node.input[1]) if len(node.input) > 1 else None
    as_attribute = attribute(node, "pads", attribute(node, "paddings", []))
    pads = as_attribute if values is None else values.reshape(-1).tolist()
    axes = value(node.input[3]) if len(node.input) > 3 and node.input[3] else np.arange(len(x))
    if axes is None or not pads or len(pads) != 2 * axes.size:
        return
    for axis, pad in zip([*axes.reshape(-1).tolist()] * 2, pads, strict=True):
        if -len(x) <= axis < len(x) and pad > 0 and pad >= x[axis]:
            raise _contradiction(node, f"Pad reflects {pad} positions of the {x[axis]} along axis {axis} of its input")


def _contradiction(node: onnx.NodeProto, message: str) -> NetadaptError:
    return NetadaptError(message, node=node_name(node), code="unrunnable")
