"""Clips: their gradients, and what is kept for these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import Builder
from netadapt_onnx.training.ops.clipping import clip_and_pad
from netadapt_onnx.training.ops.registry import Node, lookup
from netadapt_onnx.training.torch_graph import TorchGraph

LAYOUTS = (torch.contiguous_format, torch.channels_last)
# In front of and behind each axis: of none, of width and height, of all of them.
PADS = ([0] * 8, [0, 0, 1, 0, 0, 0, 2, 1], [1, 0, 0, 2, 0, 1, 1, 0])


def values(dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """Some of them at the bounds 0 and 6 exactly."""
    x = (torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(0)) * 4).round(decimals=1).to(dtype)
    return x.to(memory_format=layout).requires_grad_()


def nodes(low: float, high: float, pads: Sequence[int]) -> tuple[Node, Node]:
    attributes = {"pads": list(pads), "value": -1.0}
    return (
        Node("Clip", "c", 6, ("x",), ("clipped",), attributes={"min": low, "max": high}),
        Node("Pad", "p", 6, ("clipped",), ("y",), attributes=attributes),
    )


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bounds", [(0.0, 6.0), (-0.7, 0.7)])
def test_a_clip_has_the_gradient_of_hardtanh_to_the_bit(
    bounds: tuple[float, float], dtype: torch.dtype, layout: torch.memory_format, pads: Sequence[int]
) -> None:
    clip, pad = nodes(*bounds, pads)
    x = values(dtype, layout)
    begin, end = pads[:4], pads[4:]
    flat = [amount for pair in zip(reversed(begin), reversed(end), strict=True) for amount in pair]
    expected = F.pad(F.hardtanh(x, *bounds), flat, value=-1.0)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (expected_gradient,) = torch.autograd.grad(expected, x, gradient)
    y = clip_and_pad(clip, pad, pad, x)
    (own_gradient,) = torch.autograd.grad(y, x, gradient)
    assert torch.equal(y, expected)
    assert torch.equal(own_gradient, expected_gradient)
    assert y.stride() == expected.stride()
    assert own_gradient.stride() == expected_gradient.stride()


def kept_of(x: Tensor, function: str) -> list[int]:
    """The storages of the tensors that the gradient of an operator needs."""
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().data_ptr())
        return tensor

    clip, pad = nodes(0.0, 6.0, PADS[1])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        plain = lookup("", function)
        assert plain is not None
        y = plain(clip, x) if function == "Clip" else clip_and_pad(clip, pad, pad, x)
    assert isinstance(y, Tensor)
    assert kept == [y.untyped_storage().data_ptr()]
    return kept


@pytest.mark.parametrize("function", ["Clip", "Pad"])
def test_a_clip_keeps_what_it_puts_out_and_not_what_it_reads(function: str) -> None:
    """The layer behind keeps that too."""
    x = values(torch.float32, LAYOUTS[0])
    assert x.untyped_storage().data_ptr() not in kept_of(x, function)


def test_a_clip_without_gradients_keeps_nothing() -> None:
    plain = lookup("", "Clip")
    assert plain is not None
    with torch.no_grad():
        y = plain(nodes(0.0, 6.0, PADS[0])[0], values(torch.float32, LAYOUTS[0]))
    assert isinstance(y, Tensor)
    assert y.grad_fn is None


def padded(*, read_twice: bool = False) -> onnx.ModelProto:
    """Convolutions with a Clip and a Pad between them."""
    b = Builder()
    bounds = [b.constant("low", np.array(0, np.float32)), b.constant("high", np.array(6, np.float32))]
    x = b.node("Clip", [b.conv("image", 3, 4, name="first"), *bounds], output="clipped")
    x = b.node("Pad", [x, b.constant("pads", np.array(PADS[1], np.int64))])
    x = b.conv(x, 4, 4, name="second")
    if read_twice:
        x = b.node("Concat", [b.node("GlobalAveragePool", [name]) for name in (x, "clipped")], axis=1)
    b.node("ReduceMean", [x], output="y", axes=[2, 3], keepdims=0)
    return b.model({"image": ("N", 3, 8, 8)}, {"y": ("N", 8 if read_twice else 4)})


@pytest.mark.parametrize("read_twice", [False, True])
def test_a_clip_that_only_a_pad_reads_is_one_step_with_it(read_twice: bool) -> None:
    proto = padded(read_twice=read_twice)
    graph = TorchGraph(proto)
    assert len(graph._fused_steps) == len(proto.graph.node) - (not read_twice)
    image = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 4
    results = []
    for _ in range(2):
        y = graph(image)["y"]
        results.append([y, *torch.autograd.grad(y.square().sum(), [*graph.weights.values()])])
        graph._fused_steps = graph._steps
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
