"""Contractions: Gemm, MatMul, Einsum. Summed axes consume labels, a constant's own axes start new ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netadapt_onnx.surgery.factors import align, labelled, labelled_on
from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node
from netadapt_onnx.surgery.rules.elementwise import bind_broadcast, broadcast
from netadapt_onnx.surgery.rules.registry import rule
from netadapt_onnx.surgery.union_find import Array


@rule("MatMul")
def matmul(node: Node, labels: Labels) -> None:
    """y (..., M, N) = a (..., M, K) @ b (..., K, N), batch axes broadcast; vectors as in numpy."""
    ranks = [len(labels.shape(name)) for name in node.inputs[:2]]
    batch = [chr(ord("A") + i) for i in range(max(*ranks, 2) - 2)]
    first = "k" if ranks[0] == 1 else "".join(batch[len(batch) - (ranks[0] - 2) :]) + "mk"
    second = "k" if ranks[1] == 1 else "".join(batch[len(batch) - (ranks[1] - 2) :]) + "kn"
    out = "".join(batch) + ("" if ranks[0] == 1 else "m") + ("" if ranks[1] == 1 else "n")
    labels.set(node.outputs[0], contract(node, labels, [first, second], out))


@rule("Gemm")
@rule("FusedGemm", domain="com.microsoft")
def gemm(node: Node, labels: Labels) -> None:
    """y (M, N) = a (M, K) @ b (K, N) + c, either of a and b transposed."""
    first = "km" if node.integer("transA", 0) else "mk"
    second = "nk" if node.integer("transB", 0) else "kn"
    factors = contract(node, labels, [first, second], "mn")
    if node.has(2):
        factors = broadcast(node, labels, [2], labels.shape(node.outputs[0]), factors)
    labels.set(node.outputs[0], factors)


@rule("Einsum")
def einsum(node: Node, labels: Labels) -> None:
    """The equation says which axes are summed; ellipses and repeated letters in one operand are not handled."""
    equation = node.text("equation", "").replace(" ", "")
    if "." in equation or "->" not in equation:
        raise Unsupported(f"equation '{equation}'")
    terms, out = equation.split("->")
    letters = terms.split(",")
    if any(len(set(term)) < len(term) for term in letters):
        raise Unsupported(f"equation '{equation}' takes a diagonal")
    labels.set(node.outputs[0], contract(node, labels, letters, out))


def contract(node: Node, labels: Labels, letters: Sequence[str], out: str) -> list[Array]:
    """Labels of a product of operands whose axes are named by letters; those missing in `out` are summed over.

    Labels that spread over a summed axis and another one (heads x dimension) are tied along the summed one, or along
    the other if dimensions were chosen. An axis that only a constant has starts fresh labels: the node is a layer.
    """
    order = "".join(dict.fromkeys("".join(letters)))
    rank = len(order)
    summed = [order.index(c) for c in order if c not in out]
    lengths: dict[str, int] = {}
    for slot, term in enumerate(letters):
        for letter, length in zip(term, labels.shape(node.inputs[slot]), strict=True):
            lengths[letter] = max(length, lengths.get(letter, 1))
    merged: list[Array] = []
    runtime = [slot for slot in range(len(letters)) if not labels.is_constant(node.inputs[slot])]
    own: dict[int, list[Array]] = {slot: [] for slot in runtime}
    for slot in runtime:
        for factor in labels.of(node.inputs[slot]):
            spread = _spread(factor, letters[slot], order)
            others = [k for k in range(rank) if k not in summed]
            if labelled_on(spread, others):
                # Whole heads, or the same dimensions of each.
                dims = labels.choices.attention == "dims" and labelled_on(spread, summed)
                for axis in others if dims else summed:
                    spread = labels.collapse(spread, axis, f"'{node.name}' sums over it")
            own[slot].append(spread)
            merged = labels.join(merged, spread, f"'{node.name}'")
    for slot in runtime:
        for letter, length in zip(letters[slot], labels.shape(node.inputs[slot]), strict=True):
            axis = order.index(letter)
            if length > 1 and not labelled(own[slot], axis):
                reason = f"'{node.name}' contracts it with '{node.inputs[slot]}', which cannot be cut"
                merged = [labels.collapse(f, axis, reason) for f in merged]
        if any(letter not in out for letter in letters[slot]):
            labels.mask(node, slot)
    for slot, term in enumerate(letters):
        if slot not in runtime:
            merged = _constant(node, labels, slot, term, order, out, lengths, letters, merged)
    kept = [f for f in merged if any(f.shape[order.index(c)] > 1 for c in out)]
    return [_gathered(f, order, out) for f in kept]


def _constant(
    node: Node,
    labels: Labels,
    slot: int,
    term: str,
    order: str,
    out: str,
    lengths: dict[str, int],
    letters: Sequence[str],
    merged: list[Array],
) -> list[Array]:
    """Bind a constant operand: to the labels it meets, and to fresh ones on axes that are its own."""
    shape = labels.shape(node.inputs[slot])
    bound = []
    for factor in merged:
        axes = [order.index(c) for c, n in zip(term, shape, strict=True) if n > 1 and factor.shape[order.index(c)] > 1]
        if axes:
            factor = labels.keep_axes(factor, axes, f"weights of '{node.name}'")
            bound.append(_gathered(factor, order, term))
    others = "".join(t for i, t in enumerate(letters) if i != slot)
    for axis, letter in enumerate(term):
        if letter in out and letter not in others and shape[axis] > 1:
            fresh = labels.fresh(shape[axis])
            line = fresh.reshape([-1 if c == letter else 1 for c in order])
            bound.append(_gathered(line, order, term))
            merged = [*merged, line]
            if len(shape) > 1:
                labels.owns(node, fresh, slot, axis)
    labels.bind(node, slot, bound)
    return merged


def _spread(factor: Array, term: str, order: str) -> Array:
    """An operand's factor with its axes laid out in `order`, length 1 where it has none."""
    permutation = sorted(range(len(term)), key=lambda i: order.index(term[i]))
    shape = [1] * len(order)
    for i, letter in enumerate(term):
        shape[order.index(letter)] = factor.shape[i]
    return factor.transpose(permutation).reshape(shape)


def _gathered(factor: Array, order: str, term: str) -> Array:
    """The inverse of `_spread`: axes of `term` only, in its order (the others have length 1)."""
    axes = [order.index(c) for c in term]
    rest = tuple(k for k in range(factor.ndim) if k not in axes)
    return np.squeeze(factor, rest).transpose(np.argsort(np.argsort(axes)))


@rule("FusedMatMul", domain="com.microsoft")
def fused_matmul(node: Node, labels: Labels) -> None:
    """MatMul with transposed last axes."""
    if node.integer("transBatchA", 0) or node.integer("transBatchB", 0):
        raise Unsupported("transposed batch")
    ranks = [len(labels.shape(name)) for name in node.inputs[:2]]
    batch = "".join(chr(ord("A") + i) for i in range(max(ranks) - 2))
    first = batch[len(batch) - (ranks[0] - 2) :] + ("km" if node.integer("transA", 0) else "mk")
    second = batch[len(batch) - (ranks[1] - 2) :] + ("nk" if node.integer("transB", 0) else "kn")
    labels.set(node.outputs[0], contract(node, labels, [first, second], batch + "mn"))


def bind_channels(node: Node, labels: Labels, slot: int, line: Array) -> None:
    """Bind an optional one-dimensional input (a bias) to labels (n,); a scalar one is left alone."""
    if node.has(slot):
        if labels.is_constant(node.inputs[slot]):
            bind_broadcast(node, labels, slot, [align(line, 1)])
        else:
            raise Unsupported(f"'{node.inputs[slot]}' is computed at run time")
