"""Nodes that torch computes in one pass: the same numbers and gradients, and single nodes where somebody looks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from models import Builder
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.training.torch_graph import TorchGraph

X = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
# The addend's shape, and whether it comes first.
ADDENDS: dict[str, tuple[tuple[int, ...], bool]] = {
    "a bias": ((4,), False),
    "a bias in front": ((4,), True),
    "one number": ((1,), False),
    "one a position": ((5, 4), False),
}


def product(addend: tuple[int, ...], *, first: bool = False, read_twice: bool = False, output: bool = False) -> Builder:
    """x (N, 5, 6) times a matrix, plus something."""
    b = Builder()
    rng = np.random.default_rng(1)
    w = b.constant("w", rng.standard_normal((6, 4)).astype(np.float32))
    c = b.constant("c", rng.standard_normal(addend).astype(np.float32))
    b.node("MatMul", ["x", w], output="made")
    b.node("Add", [c, "made"] if first else ["made", c], output="sum" if read_twice or output else "y")
    if read_twice:
        b.node("Mul", ["sum", "made"], output="y")
    elif output:
        b.node("Relu", ["sum"], output="y")
    return b


def model(b: Builder, *more: str) -> onnx.ModelProto:
    return b.model({"x": ("N", 5, 6)}, dict.fromkeys(("y", *more), ("N", 5, 4)))


@pytest.mark.parametrize(("addend", "first"), ADDENDS.values(), ids=ADDENDS)
def test_a_product_and_its_addend_are_one_step(addend: tuple[int, ...], first: bool) -> None:
    check(model(product(addend, first=first)), steps=1)


def test_what_somebody_else_reads_is_computed_too() -> None:
    check(model(product((4,), read_twice=True)), steps=3)
    check(model(product((4,), output=True), "made"), steps=3)


def check(proto: onnx.ModelProto, steps: int) -> None:
    """Outputs as onnxruntime's, gradients as those of the single nodes, which an observer sees."""
    graph = TorchGraph(proto)
    assert len(graph._fused_steps) == steps
    seen: list[str] = []
    x = torch.from_numpy(X)
    plain = graph.observe({"x": x}, lambda node, *_: seen.append(node.op))
    assert seen == [node.op_type for node in proto.graph.node]
    outputs = graph(x)
    for name, value in run(session(proto), {"x": X}).items():
        assert np.abs(outputs[name].detach().numpy() - value).max() <= 1e-5 * value.std()
        assert torch.allclose(outputs[name], plain[name], atol=1e-5)
    gate = torch.ones((), requires_grad=True)
    weights = [*graph.weights.values()]
    ours = torch.autograd.grad(outputs["y"].pow(2).sum(), weights)
    gated = graph.gated({"x": x}, [(("made", 0), gate)])
    theirs = torch.autograd.grad(gated["y"].pow(2).sum(), [*weights, gate])
    for one, other in zip(ours, theirs, strict=False):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert float(theirs[-1].abs()) > 0
