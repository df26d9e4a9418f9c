"""Contractions: Gemm, MatMul, Einsum. Summed axes consume labels, a constant's own axes start new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array, on_axis
from netadapt_onnx.surgery.labels import Labels, Unsupported
from netadapt_onnx.surgery.node import Node, labelled, labelled_on
from netadapt_onnx.surgery.rules.elementwise import bind_broadcast, broadcast
from netadapt_onnx.surgery.rules.registry import rule


@rule("MatMul")
@rule("FusedMatMul", domain="com.microsoft")
def matmul(node: Node, labels: Labels) -> None:
    """Labels of y (..., M, N) = a (..., M, K) @ b (..., K, N), with batch axes and vectors as in numpy (`contract`).

    Either operand of a FusedMatMul may have its last two axes transposed.
    """
    if node.integer("transBatchA", 0) or node.integer("transBatchB", 0):
        raise Unsupported("transposed batch")
    ranks = [len(labels.shape(name)) for name in node.inputs[:2]]
    batch = "".join(chr(ord("A") + i) for i in range(max(*ranks, 2) - 2))
    terms = [
        "k" if rank == 1 else batch[len(batch) - (rank - 2) :] + matrix
        for rank, matrix in zip(ranks, _matrices(node), strict=True)
    ]
    out = batch + ("" if ranks[0] == 1 else "m") + ("" if ranks[1] == 1 else "n")
    labels.set(node.outputs[0], contract(node, labels, terms, out))


def _matrices(node: Node) -> tuple[str, str]:
    """The letters of both operands' last two axes."""
    return "km" if node.integer("transA", 0) else "mk", "nk" if node.integer("transB", 0) else "kn"


@rule("Gemm")
@rule("FusedGemm", domain="com.microsoft")
def gemm(node: Node, labels: Labels) -> None:
    """Labels of y (M, N) = a (M, K) @ b (K, N) + c, either of a and b transposed (`contract`)."""
    factors = contract(node, labels, _matrices(node), "mn")
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


@dataclass(frozen=True)
class _Equation:
    """A product of operands whose axes are named by letters, as in einsum: letters missing in `out` are summed over."""

    terms: Sequence[str]
    out: str

    @cached_property
    def order(self) -> str:
        """All letters. Labels of different operands meet as factors with one axis for each."""
        return "".join(dict.fromkeys("".join(self.terms)))

    @cached_property
    def summed(self) -> list[int]:
        """The axes of `order` that are summed over."""
        return [k for k, letter in enumerate(self.order) if letter not in self.out]

    @cached_property
    def passed_on(self) -> list[int]:
        """The axes of `order` that the result has."""
        return [k for k, letter in enumerate(self.order) if letter in self.out]

    def is_own(self, slot: int, letter: str) -> bool:
        """Whether an axis of the result comes from operand `slot` alone."""
        return letter in self.out and not any(letter in term for i, term in enumerate(self.terms) if i != slot)


def contract(node: Node, labels: Labels, terms: Sequence[str], out: str) -> list[Array]:
    """Labels of y[out] = sum over the letters missing in `out` of the product of operands a[terms[0]] * b[terms[1]] ...

    Labels that spread over a summed axis and another one (heads x dimension) are tied along the summed one, or along
    the other if dimensions were chosen. An axis that only a constant has starts fresh labels: the node is a layer.

    Args:
        node: The node; its first inputs are the operands.
        labels: What is labelled so far.
        terms: For each operand a letter for each of its axes.
        out: The letters of the result's axes.
    """
    equation = _Equation(terms, out)
    for term, name in zip(terms, node.inputs, strict=False):
        if len(term) != len(labels.shape(name)):
            raise Unsupported(f"'{term}' does not name every axis of '{name}'")
    runtime = [slot for slot in range(len(terms)) if not labels.is_constant(node.inputs[slot])]
    own: dict[int, list[Array]] = {slot: [] for slot in runtime}
    merged: list[Array] = []
    for slot in runtime:
        for factor in labels.of(node.inputs[slot]):
            own[slot].append(_by_letters(node, labels, equation, slot, factor))
            merged = labels.join(merged, own[slot][-1], f"'{node.name}'")
    for slot in runtime:
        name = node.inputs[slot]
        for letter, length in zip(terms[slot], labels.shape(name), strict=True):
            axis = equation.order.index(letter)
            if length > 1 and not labelled(own[slot], axis):
                reason = f"'{node.name}' contracts it with '{name}', which cannot be cut"
                merged = [labels.collapse(f, axis, reason) for f in merged]
        if any(letter not in out for letter in terms[slot]):
            labels.mask(node, slot)
    for slot in range(len(terms)):
        if slot not in runtime:
            merged = _bind_constant(node, labels, equation, slot, merged)
    return [_gathered(f, equation.order, out) for f in merged if labelled_on(f, equation.passed_on)]


def _by_letters(node: Node, labels: Labels, equation: _Equation, slot: int, factor: Array) -> Array:
    """A runtime operand's labels laid out by the letters of the equation: on summed axes or on others, not on both."""
    factor = _spread(factor, equation.terms[slot], equation.order)
    if labelled_on(factor, equation.passed_on):
        # Whole heads, or the same dimensions of each.
        dims = labels.choices.attention == "dims" and labelled_on(factor, equation.summed)
        for axis in equation.passed_on if dims else equation.summed:
            factor = labels.collapse(factor, axis, f"'{node.name}' sums over it")
    return factor


def _bind_constant(node: Node, labels: Labels, equation: _Equation, slot: int, merged: Sequence[Array]) -> list[Array]:
    """Bind a constant operand to the labels that it meets, and to fresh ones on axes of its own; returns all labels."""
    order, term = equation.order, equation.terms[slot]
    shape = labels.shape(node.inputs[slot])
    bound = []
    for factor in merged:
        axes = [order.index(c) for c, n in zip(term, shape, strict=True) if n > 1 and factor.shape[order.index(c)] > 1]
        if axes:
            factor = labels.keep_axes(factor, axes, f"weights of '{node.name}'")
            bound.append(_gathered(factor, order, term))
    factors = list(merged)
    for axis, letter in enumerate(term):
        if equation.is_own(slot, letter) and shape[axis] > 1:
            fresh = labels.fresh(shape[axis])
            factors.append(on_axis(fresh, order.index(letter), len(order)))
            bound.append(_gathered(factors[-1], order, term))
            if len(shape) > 1:
                labels.owns(node, fresh, slot, axis)
    labels.bind(node, slot, bound)
    return factors


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


def bind_channels(node: Node, labels: Labels, slot: int, channels: Array) -> None:
    """Bind an optional one-dimensional input (a bias) to labels (channels,); a scalar one is left alone."""
    if node.has(slot):
        if not labels.is_constant(node.inputs[slot]):
            raise Unsupported(f"'{node.inputs[slot]}' is computed at run time")
        bind_broadcast(node, labels, slot, [channels])
