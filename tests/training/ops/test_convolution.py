"""Convolutions in the forms in which they are computed: the same numbers, without kernels that are wrong somewhere."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import Builder
from netadapt_onnx.training.ops import convolution
from netadapt_onnx.training.torch_graph import TorchGraph

Arguments = tuple[Any, ...]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Arguments]:
    """The arguments of all convolutions that torch is asked for."""
    recorded: list[Arguments] = []

    def recording(function: Any) -> Any:
        def computed(*arguments: Any) -> torch.Tensor:
            recorded.append(arguments)
            result: torch.Tensor = function(*arguments)
            return result

        return computed

    for table in (convolution._CONV, convolution._CONV_TRANSPOSE):
        for axes, function in list(table.items()):
            monkeypatch.setitem(table, axes, recording(function))  # type: ignore[arg-type]
    return recorded


def computed(op: str, x: torch.Tensor, w: torch.Tensor, **attributes: Any) -> torch.Tensor:
    b = Builder(0)
    y = b.node(op, ["x", b.constant("w", w.float().numpy())], output="y", **attributes)
    shape = tuple(x.shape)
    (value,) = TorchGraph(b.model({"x": shape}, {y: ["?"] * len(shape)}))(x.float()).values()
    return value.detach()


def assert_close(value: torch.Tensor, exact: torch.Tensor) -> None:
    assert value.shape == exact.shape
    scale = max(float(exact.abs().max()), 1e-3)
    np.testing.assert_allclose(value.numpy(), exact.numpy(), rtol=0, atol=1e-5 * scale)


def assert_right_everywhere(arguments: Arguments) -> None:
    """Whether a convolution reaches none of the kernels that are wrong on some processor."""
    x, w, _, strides, padding, dilations, _ = arguments
    for size, kernel, stride, pad, dilation in zip(x.shape[2:], w.shape[2:], strides, padding, dilations, strict=True):
        outputs = (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        starts = [position * stride - pad for position in range(outputs)]
        assert all(any(0 <= start + tap * dilation < size for start in starts) for tap in range(kernel))
        assert stride == 1 or (outputs > 1 and kernel > 1)


@pytest.mark.parametrize("seed", range(120))
def test_a_convolution_reaches_no_kernel_that_is_wrong_somewhere(seed: int, calls: list[Arguments]) -> None:
    """Taps that meet nothing but padding, strides where there is one output, and strides of a single tap."""
    draw = random.Random(seed)
    size, kernel = ([draw.choice(choices) for _ in range(2)] for choices in ((1, 2, 3, 7), (1, 2, 3, 5)))
    strides, dilations = ([draw.choice(choices) for _ in range(2)] for choices in ((1, 2, 3), (1, 1, 2)))
    extent = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    begin = [draw.randint(0, e) for e in extent]
    end = [max(draw.randint(0, e), e - n - b) for e, n, b in zip(extent, size, begin, strict=True)]
    groups = draw.choice([1, 2])
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)
    w = torch.randn(6, 4 // groups, *kernel, generator=generator, dtype=torch.float64)
    exact = F.conv2d(F.pad(x, [begin[1], end[1], begin[0], end[0]]), w, None, strides, 0, dilations, groups)
    value = computed("Conv", x, w, group=groups, strides=strides, dilations=dilations, pads=[*begin, *end])
    assert_close(value, exact)
    (arguments,) = calls
    assert_right_everywhere(arguments)


@pytest.mark.parametrize("seed", range(120))
def test_a_transposed_convolution_has_no_gradient_that_is_wrong_somewhere(seed: int, calls: list[Arguments]) -> None:
    """Its gradient is a convolution of what it puts out."""
    draw = random.Random(seed)
    size, kernel = ([draw.choice(choices) for _ in range(2)] for choices in ((1, 2, 5), (1, 2, 3, 5)))
    strides, dilations = ([draw.choice(choices) for _ in range(2)] for choices in ((1, 2, 3), (1, 1, 2)))
    full = [s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(strides, size, dilations, kernel, strict=True)]
    pads = [draw.randint(0, (f - 1) // 2) for f in full]
    extra = [draw.randint(0, max(s, d) - 1) for s, d in zip(strides, dilations, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)
    w = torch.randn(4, 3, *kernel, generator=generator, dtype=torch.float64)
    exact = F.conv_transpose2d(x, w, None, strides, pads, extra, 1, dilations)
    value = computed(
        "ConvTranspose",
        x,
        w,
        strides=strides,
        dilations=dilations,
        pads=[*pads, *pads],
        output_padding=extra,
    )
    assert_close(value, exact)
    (arguments,) = calls
    x, w, bias, strides, padding, extra, groups, dilations = arguments
    padding, extra = ([one] * 2 if isinstance(one, int) else one for one in (padding, extra))
    outputs = F.conv_transpose2d(x, w, bias, strides, padding, extra, groups, dilations)
    assert_right_everywhere((outputs, w, bias, strides, padding, dilations, groups))


def test_same_padding_of_a_single_output_is_what_it_was_with_its_stride(calls: list[Arguments]) -> None:
    x, w = torch.ones(1, 1, 9, 2, dtype=torch.float64), torch.ones(1, 1, 3, 3, dtype=torch.float64)
    value = computed("Conv", x, w, strides=[3, 3], auto_pad="SAME_UPPER")
    assert_close(value, F.conv2d(F.pad(x, [0, 1, 0, 0]), w, None, [3, 3]))
    assert [call[3] for call in calls] == [[3, 1]]
