"""What the rules' edits do to a node of a cut model: they rewrite the integers that counted channels.

An edit returns the nodes that it adds in front of its own, if any (`labels.Edit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.axis_arrays import Array, on_axis
from netadapt_onnx.surgery.cut import Cut


def integers(node: gs.Node, slot: int, attribute: str = "") -> list[int]:
    """The values of a constant integer input, or in older opsets of `attribute`."""
    values = node.attrs[attribute] if attribute in node.attrs else node.inputs[slot].values
    return [int(value) for value in values]


def set_integers(node: gs.Node, slot: int, values: Any, attribute: str = "") -> None:
    """Replace an integer input by a constant, which other nodes that read the old one keep, or write `attribute`."""
    if attribute in node.attrs:
        node.attrs[attribute] = values
        return
    old = node.inputs[slot] if slot < len(node.inputs) else None
    dtype = old.values.dtype if isinstance(old, gs.Constant) else np.int64
    alone = old is not None and len(old.outputs) == 1
    name = old.name if old is not None and old.name and alone else f"{node.outputs[0].name}/{slot}"
    constant = gs.Constant(name, np.ascontiguousarray(np.asarray(values, dtype)))
    if slot < len(node.inputs):
        node.inputs[slot] = constant
    else:
        node.inputs.append(constant)


def resize_dims(cut: Cut, node: gs.Node, slot: int, output: str) -> list[gs.Node]:
    """Rewrite an input that lists the dimensions of `output`: the entries whose axis was cut, and only those.

    Returns:
        The node that overrules dimensions computed at run time; nothing where the input itself was rewritten.
    """
    before, after = cut.original_shape(output), cut.shape(output)
    if before == after:
        return []
    source = node.inputs[slot] if slot < len(node.inputs) else None
    if source is None:  # Reshape-1 keeps its target in an attribute
        node.attrs["shape"] = _rewritten(node.attrs["shape"], before, after)
    elif isinstance(source, gs.Constant):
        set_integers(node, slot, _rewritten(integers(node, slot), before, after))
    elif _is_formula(source):
        _resize_formula(source, before, after, cut.batch_size)
    else:
        overruling = _overruling(cut, source, before, after, f"{node.name or output}/{slot}")
        node.inputs[slot] = overruling.outputs[0]
        return [overruling]
    return []


def _rewritten(values: Sequence[int], before: Sequence[int], after: Sequence[int]) -> list[int]:
    values = list(values)
    offset = len(before) - len(values)  # Expand's target may have fewer axes than its result
    for axis in range(max(offset, 0), len(before)):
        if values[axis - offset] == before[axis]:
            values[axis - offset] = after[axis]
    return values


def _is_formula(source: gs.Variable) -> bool:
    """Whether dimensions are `slope * batch + offset` as `symbolic_batch.py` writes them."""
    add = source.inputs[0] if source.inputs else None
    if add is None or add.op != "Add" or not isinstance(add.inputs[1], gs.Constant) or not add.inputs[0].inputs:
        return False
    mul = add.inputs[0].inputs[0]
    return mul.op == "Mul" and isinstance(mul.inputs[1], gs.Constant)


def _resize_formula(source: gs.Variable, before: Sequence[int], after: Sequence[int], batch_size: int) -> None:
    """Scale those entries of dimensions `slope * batch + offset` whose axis was cut."""
    add = source.inputs[0]
    slope, offset = add.inputs[0].inputs[0].inputs[1], add.inputs[1]
    current = slope.values * batch_size + offset.values
    for constant in (slope, offset):
        values = constant.values.copy()
        for axis, (old, new) in enumerate(zip(before, after, strict=True)):
            if old == new or current[axis] != old:  # a 1 that Expand leaves as it is, say
                continue
            if values[axis] * new % old:
                raise NetadaptError(f"dimension {values[axis]} does not follow its axis", node=add.name)
            values[axis] = values[axis] * new // old
        constant.values = values


def _overruling(cut: Cut, source: gs.Variable, before: Sequence[int], after: Sequence[int], name: str) -> gs.Node:
    """A node with the dimensions that are computed at run time, but for those of axes that were cut."""
    offset = len(before) - cut.shape(source.name)[0]  # Expand's target may have fewer axes than its result
    changed = np.array([old != new for old, new in zip(before, after, strict=True)][offset:])
    dims = np.array(after[offset:], np.int64)
    inputs = [gs.Constant(f"{name}/cut", changed), gs.Constant(f"{name}/sizes", dims), source]
    return gs.Node("Where", name=f"{name}/dims", inputs=inputs, outputs=[gs.Variable(f"{name}/dims")])


def set_gather(cut: Cut, node: gs.Node, data: str, axis: int, indices: Array) -> None:
    """Rewrite a Gather's indices (of any rank) into a cut axis of `data`: what is kept, at its new position."""
    positions, copies = cut.layout(data, axis)
    length = cut.original_shape(data)[axis]
    if len(positions) == length and not copies.any():
        return
    new_position = np.zeros((length, int(copies.max(initial=0)) + 1), np.int64)
    new_position[positions, copies] = np.arange(len(positions))
    copy = np.zeros((1,) * indices.ndim, np.int64)
    for k in range(indices.ndim):
        kept, which = cut.layout(node.outputs[0].name, axis + k)
        indices = indices.take(kept, k)
        copy = np.maximum(copy, on_axis(which, k, indices.ndim))
    set_integers(node, 1, new_position[np.where(indices < 0, indices + length, indices), copy])
