"""LSTM, GRU and RNN through torch's own kernels: ONNX's gates are reordered as differentiable views."""

from __future__ import annotations

import torch
from torch import Tensor

from netadapt_onnx.training.ops.registry import Node, op

_DEFAULT_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_GATE_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # ONNX's iofc and zrh as torch's ifgo and rzn


@op("LSTM")
def lstm(
    node: Node, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    *states: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Shapes: x (L, N, in); w (D, 4H, in); r (D, 4H, H); y (L, D, N, H); h, c (D, N, H).

    `states` are the first h and c, then peepholes.
    """
    h0, c0, peepholes = (*states, None, None, None)[:3]
    if peepholes is not None or node.attribute("input_forget", 0):
        raise node.refuse("with peepholes or coupled gates")
    _refuse_variants(node, x, lengths)
    x = _sequence_first(node, x)
    directions, hidden = w.shape[0], r.shape[-1]
    state = x.new_zeros(directions, x.shape[1], hidden)
    start = (_state(node, h0, state), _state(node, c0, state))
    y, h, c = torch.lstm(
        _reversed(node, x), start, _weights("LSTM", w, r, b), b is not None, 1, 0.0, False, directions == 2, False
    )
    return _outputs(node, y, directions, h, c)


@op("GRU")
def gru(
    node: Node, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    h0: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Shapes: x (L, N, in); w (D, 3H, in); r (D, 3H, H); y (L, D, N, H); h (D, N, H)."""
    _refuse_variants(node, x, lengths)
    x = _sequence_first(node, x)
    directions = w.shape[0]
    start = _state(node, h0, x.new_zeros(directions, x.shape[1], r.shape[-1]))
    if node.attribute("linear_before_reset", 0):
        y, h = torch.gru(
            _reversed(node, x), start, _weights("GRU", w, r, b), b is not None, 1, 0.0, False, directions == 2, False
        )
        return _outputs(node, y, directions, h)
    # torch has no kernel for the reset gate in front of the recurrent product (Keras' default).
    ends = []
    for d in range(directions):
        backward = d == 1 or node.attribute("direction", "forward") == "reverse"
        ends.append(_gru_steps(x.flip(0) if backward else x, w[d], r[d], None if b is None else b[d], start[d]))
    flipped = [y.flip(0) if d == 1 else y for d, (y, _) in enumerate(ends)]
    return _outputs(node, torch.cat(flipped, -1), directions, torch.stack([h for _, h in ends]))


@op("RNN")
def rnn(
    node: Node, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    h0: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Shapes: x (L, N, in); w (D, H, in); r (D, H, H); y (L, D, N, H); h (D, N, H)."""
    names = set(node.attribute("activations") or ["Tanh"])
    if len(names) > 1 or not names <= {"Tanh", "Relu"}:
        raise node.refuse(f"with activations {sorted(names)}")
    if lengths is not None:
        raise node.refuse("with sequence lengths")
    x = _sequence_first(node, x)
    directions = w.shape[0]
    start = _state(node, h0, x.new_zeros(directions, x.shape[1], r.shape[-1]))
    kernel = torch.rnn_tanh if names == {"Tanh"} else torch.rnn_relu
    y, h = kernel(
        _reversed(node, x), start, _weights("RNN", w, r, b), b is not None, 1, 0.0, False, directions == 2, False
    )
    return _outputs(node, y, directions, h)


def _refuse_variants(node: Node, x: Tensor, lengths: Tensor | None) -> None:
    steps = x.shape[1 if node.attribute("layout", 0) else 0]
    if lengths is not None and any(length != steps for length in node.integers(4, lengths) or []):
        raise node.refuse("with sequence lengths")
    activations = node.attribute("activations")
    default = _DEFAULT_ACTIVATIONS[node.op]
    if activations and any(a != default[i % len(default)] for i, a in enumerate(activations)):
        raise node.refuse(f"with activations {activations}")
    if node.attribute("clip") is not None:
        raise node.refuse("with clip")


def _sequence_first(node: Node, x: Tensor) -> Tensor:
    return x.transpose(0, 1) if node.attribute("layout", 0) else x


def _state(node: Node, state: Tensor | None, zeros: Tensor) -> Tensor:
    """The first hidden state; one stored for another batch size (an export's zeros) is repeated."""
    if state is None:
        return zeros
    state = state.transpose(0, 1) if node.attribute("layout", 0) else state
    return state.expand_as(zeros).contiguous()


def _reversed(node: Node, x: Tensor) -> Tensor:
    return x.flip(0) if node.attribute("direction", "forward") == "reverse" else x


def _weights(kind: str, w: Tensor, r: Tensor, b: Tensor | None) -> list[Tensor]:
    """torch's flat list of weights: input, recurrent, and their biases, a direction after the other."""
    order = _GATE_ORDER[kind]
    flat: list[Tensor] = []
    for d in range(w.shape[0]):
        flat += [_reorder(w[d], order), _reorder(r[d], order)]
        if b is not None:
            half = b.shape[-1] // 2
            flat += [_reorder(b[d, :half], order), _reorder(b[d, half:], order)]
    return flat


def _reorder(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    gates = weight.chunk(len(order), 0)
    return torch.cat([gates[i] for i in order], 0)


def _outputs(node: Node, y: Tensor, directions: int, *states: Tensor) -> tuple[Tensor, ...]:
    """y as (L, D, N, H), or with `layout` (N, L, D, H), then the last states."""
    if node.attribute("direction", "forward") == "reverse":
        y = y.flip(0)
    y = y.reshape(*y.shape[:2], directions, -1).transpose(1, 2)
    if node.attribute("layout", 0):
        return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in states)
    return y, *states


def _gru_steps(x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
    """A GRU whose reset gate acts before the recurrent product. Shapes: x (L, N, in); h (N, H)."""
    hidden = r.shape[-1]
    gates = x @ w.t()
    if b is not None:
        gates = gates + b[: 3 * hidden] + b[3 * hidden :]
    steps = []
    for step in gates:
        update_reset = torch.sigmoid(step[:, : 2 * hidden] + h @ r[: 2 * hidden].t())
        update, reset = update_reset.chunk(2, -1)
        candidate = torch.tanh(step[:, 2 * hidden :] + (reset * h) @ r[2 * hidden :].t())
        h = (1 - update) * candidate + update * h
        steps.append(h)
    return torch.stack(steps), h
