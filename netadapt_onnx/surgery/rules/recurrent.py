"""Recurrent layers: hidden units are channels, the same ones in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from netadapt_onnx.surgery.labels import Labels, Unsupported, on_axis
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.registry import rule
from netadapt_onnx.surgery.ties import Array

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from netadapt_onnx.surgery.resize import Cut

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PEEPHOLES = 7  # LSTM's input slot of P (directions, 3 * hidden)


@rule("LSTM", "GRU", "RNN")
def recurrent(node: Node, labels: Labels) -> None:
    """Shapes: x (T, N, I); w (D, gates * H, I); r (D, gates * H, H); b (D, 2 * gates * H); y (T, D, N, H).

    States that come from outside the graph fix the hidden units; constant ones are cut along.
    """
    gates = GATES[node.op]
    if node.integer("layout", 0) or not all(labels.is_constant(node.inputs[slot]) for slot in (1, 2)):
        raise Unsupported("a layout or weights that onnxruntime does not take")
    hidden = labels.shape(node.inputs[2])[2]
    line = labels.channels(node.inputs[0], 2, f"'{node.name}' runs along it")
    fresh = labels.fresh(hidden)
    gated = np.tile(fresh, gates)
    factors = [on_axis(gated, 1, 3)]
    labels.bind(node, 1, factors if line is None else [*factors, on_axis(line, 2, 3)])
    labels.bind(node, 2, [*factors, on_axis(fresh, 2, 3)])
    if node.has(3):
        labels.bind(node, 3, [on_axis(np.tile(fresh, 2 * gates), 1, 2)])
    if node.has(PEEPHOLES):
        labels.bind(node, PEEPHOLES, [on_axis(np.tile(fresh, 3), 1, 2)])
    for slot in (5, 6):
        if node.has(slot):
            _initial_state(node, labels, slot, fresh)
    labels.mask(node, 0)
    labels.mask(node, 2)  # a removed unit must not come back through the recurrence
    labels.edit(node, _set_hidden_size)
    labels.owns(node, fresh, 1, 1, gated)
    for output in filter(None, node.outputs):
        rank = len(labels.shape(output))
        labels.set(output, [on_axis(fresh, rank - 1, rank)])


def _initial_state(node: Node, labels: Labels, slot: int, units: Array) -> None:
    name = node.inputs[slot]
    if labels.is_constant(name):
        labels.bind(node, slot, [on_axis(units, 2, 3)])
        return
    state = labels.channels(name, 2, f"a state of '{node.name}'")
    if state is None:
        labels.pin(units, f"the state '{name}' of '{node.name}' comes from outside")
    else:
        labels.tie(units, state, f"a state of '{node.name}'")


def _set_hidden_size(cut: Cut, node: gs.Node) -> None:
    node.attrs["hidden_size"] = cut.shape(node.inputs[2].name)[2]
