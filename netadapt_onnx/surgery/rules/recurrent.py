"""Recurrent layers: hidden units are channels, the same ones in both directions."""

from __future__ import annotations

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array, on_axis
from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.registry import rule

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PEEPHOLES = 7  # LSTM's input slot of P (directions, 3 * hidden)


@rule("LSTM", "GRU", "RNN")
def recurrent(node: Node, labels: Labels) -> None:
    """The node starts H channels, its hidden units.

    States that come from outside the graph fix them; constant ones are cut along.

    Shapes: x (T, N, I); w (D, gates * H, I); r (D, gates * H, H); b (D, 2 * gates * H); y (T, D, N, H).
    """
    _recur(node, labels, GATES[node.op], gate_axis=1)
    labels.mask(node, 0)
    labels.mask(node, 2)  # a removed unit must not come back through the recurrence


@rule("DynamicQuantizeLSTM", domain="com.microsoft")
def dynamic_lstm(node: Node, labels: Labels) -> None:
    """LSTM with weights of bytes that lie transposed: w (D, I, 4 * H); r (D, H, 4 * H).

    Scales and zero points of w and r (inputs 8 to 11) are (D,), or (D, 4 * H). What is multiplied with them, x and in
    every step the last step's y, is quantised over the range of its values and 0. So in the masked reference a removed
    unit must put out 0 itself, and not only be ignored: all that feeds it is zeroed.
    """
    gated = _recur(node, labels, GATES["LSTM"], gate_axis=2)
    for slot in range(8, 12):
        if not labels.is_constant(node.inputs[slot]):
            raise Unsupported(f"'{node.inputs[slot]}' is computed at run time")
        if len(labels.shape(node.inputs[slot])) > 1:
            labels.bind(node, slot, [on_axis(gated, 1, 2)])
    if _zero_stays_zero(node):
        for slot in (0, 1, 2, 3, 5, 6, PEEPHOLES):
            if node.has(slot):
                labels.mask(node, slot)
    else:
        labels.gather(node)


def _zero_stays_zero(node: Node) -> bool:
    """Whether a unit whose weights, bias and states are zero puts out zero: its second and third activation do."""
    activations = [bytes(name).decode().lower() for name in node.attributes.get("activations", [])]
    odd = {"tanh", "relu", "leakyrelu", "scaledtanh", "elu", "softsign"}
    return all(name in odd for i, name in enumerate(activations) if i % 3)


def _recur(node: Node, labels: Labels, gates: int, gate_axis: int) -> Array:
    """Bind weights, bias and states to hidden units, which it makes a layer; returns the labels (gates * H,).

    The gates of w and r lie along `gate_axis`, the inputs along the other one of their axes 1 and 2.
    """
    if node.integer("layout", 0) or not all(labels.is_constant(node.inputs[slot]) for slot in (1, 2)):
        raise Unsupported("a layout or weights that onnxruntime does not take")
    other = 3 - gate_axis
    inputs = labels.channels(node.inputs[0], 2, f"'{node.name}' runs along it")
    units = labels.fresh(labels.shape(node.inputs[2])[other])
    gated = np.tile(units, gates)
    factors = [on_axis(gated, gate_axis, 3)]
    labels.bind(node, 1, factors if inputs is None else [*factors, on_axis(inputs, other, 3)])
    labels.bind(node, 2, [*factors, on_axis(units, other, 3)])
    for slot, runs in ((3, 2 * gates), (PEEPHOLES, 3)):
        if node.has(slot):
            labels.bind(node, slot, [on_axis(np.tile(units, runs), 1, 2)])
    for slot in (5, 6):
        if node.has(slot):
            _initial_state(node, labels, slot, units)
    labels.edit(node, lambda cut, edited: edited.attrs.update(hidden_size=cut.shape(node.inputs[2])[other]))
    labels.owns(node, units, 1, gate_axis, gated)
    for output in filter(None, node.outputs):
        rank = len(labels.shape(output))
        labels.set(output, [on_axis(units, rank - 1, rank)])
    return gated


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
