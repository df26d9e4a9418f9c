"""Conv and ConvTranspose, in the forms of them whose kernels in torch are right on every processor.

Five kinds of kernels of oneDNN 3.12 (torch 2.13) are not, and are not reached from here:
- backward of a convolution with a 1x1 kernel and strides, channels last, float32: without AVX512_BF16 it writes beyond
  its buffers. What such a kernel skips is taken out beforehand, which leaves a convolution of stride 1.
- bfloat16's gradient of the weights: with AVX-512 those of taps that meet nothing but padding are not initialised, and
  with AMX the convolution itself may crash. Such taps are cut off; where they lie between others, or there are no
  others, the padding is written out.
- the same of convolutions over three axes, whatever their taps meet: these are computed in float32.
- bfloat16's gradient of the weights of grouped convolutions, channels last, is wrong with AVX2 where the input has an
  unusual stride along an axis of length 1, as slices leave it: such inputs are copied.
- bfloat16's convolution, and the gradient of a transposed one, with AMX reads beyond its input where it takes strides
  along an axis with a single output: there is nothing to stride to, so the stride is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.training.ops.padding import pad_spatial, spatial_pads
from netadapt_onnx.training.ops.registry import Node, op

Convolution = Callable[..., Tensor]


@dataclass(frozen=True)
class _Taps:
    """The taps of a kernel along an axis, from the first to the last of some use; all of them where none is.

    Attributes:
        first: The first one.
        last: The one behind the last.
        are_all_useful: Whether all in between are of use, too.
    """

    first: int
    last: int
    are_all_useful: bool

    @staticmethod
    def of(useful: Sequence[bool]) -> _Taps:
        places = [place for place, yes in enumerate(useful) if yes] or [0, len(useful) - 1]
        first, last = places[0], places[-1] + 1
        return _Taps(first, last, all(useful[first:last]))


def _in_float32(convolution: Convolution) -> Convolution:
    """The same without autocast on the CPU."""

    def computed(*arguments: Any) -> Tensor:
        if arguments[0].device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return convolution(*arguments)
        with torch.autocast("cpu", enabled=False):
            return convolution(*(a.float() if isinstance(a, Tensor) else a for a in arguments))

    return computed


_CONV: Mapping[int, Convolution] = {1: F.conv1d, 2: F.conv2d, 3: _in_float32(F.conv3d)}
_CONV_TRANSPOSE: Mapping[int, Convolution] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: _in_float32(F.conv_transpose3d),
}


@op("Conv")
def conv(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Shapes: x (N, C, *spatial); w (O, C/group, *kernel); y (N, O, *spatial')."""
    axes = w.dim() - 2
    strides = list(node.attribute("strides") or [1] * axes)
    dilations = list(node.attribute("dilations") or [1] * axes)
    begin, end = spatial_pads(node, x.shape[2:], w.shape[2:], strides, dilations)
    extent = [d * (k - 1) + 1 for d, k in zip(dilations, w.shape[2:], strict=True)]
    for axis, (size, window) in enumerate(zip(x.shape[2:], extent, strict=True)):
        unread = size + begin[axis] + end[axis] - window
        if unread < strides[axis]:  # a single output
            strides[axis], end[axis] = 1, end[axis] - unread
    taps = [_taps_of_conv(*one) for one in zip(x.shape[2:], w.shape[2:], strides, dilations, begin, end, strict=True)]
    w, begin, end = _cropped(w, taps, dilations, begin, end)
    pointwise = [kernel == 1 and stride > 1 for kernel, stride in zip(w.shape[2:], strides, strict=True)]
    if begin != end or min(begin) < 0 or any(pointwise) or not all(one.are_all_useful for one in taps):
        x, begin = pad_spatial(x, begin, end), [0] * axes
    if any(pointwise):
        x = x[_every([s if p else 1 for s, p in zip(strides, pointwise, strict=True)])]
        strides = [1 if p else s for s, p in zip(strides, pointwise, strict=True)]
    # The attribute may be stale after surgery of a depthwise layer; the shapes cannot be.
    groups = x.shape[1] // w.shape[1]
    return _CONV[axes](_fresh(x), w, b, strides, begin, dilations, groups)


@op("ConvTranspose")
def conv_transpose(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Shapes: x (N, C, *spatial); w (C, O/group, *kernel); y (N, O, *spatial')."""
    axes = w.dim() - 2
    strides = list(node.attribute("strides") or [1] * axes)
    dilations = list(node.attribute("dilations") or [1] * axes)
    extra = list(node.attribute("output_padding") or [0] * axes)
    begin, end = _transposed_pads(node, x, w, strides, dilations, extra)
    end = [e - more for e, more in zip(end, extra, strict=True)]
    strides = [1 if size == 1 else stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    taps = [
        _taps_of_transpose(*one) for one in zip(x.shape[2:], w.shape[2:], strides, dilations, begin, end, strict=True)
    ]
    w, begin, end = _cropped(w, taps, dilations, begin, end)
    pointwise = [kernel == 1 and stride > 1 for kernel, stride in zip(w.shape[2:], strides, strict=True)]
    groups = node.attribute("group", 1)
    extra = [b - e for b, e in zip(begin, end, strict=True)]
    native = min(begin) >= 0 and all(0 <= e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if native and not any(pointwise) and all(one.are_all_useful for one in taps):
        return _CONV_TRANSPOSE[axes](x, w, b, strides, begin, extra, groups, dilations)
    dense = [1 if p else s for s, p in zip(strides, pointwise, strict=True)]
    y = _CONV_TRANSPOSE[axes](x, w, None, dense, 0, 0, groups, dilations)
    if any(pointwise):
        y = _spread(y, [s if p else 1 for s, p in zip(strides, pointwise, strict=True)])
    y = pad_spatial(y, [-p for p in begin], [-p for p in end])
    return y if b is None else y + b.to(y.dtype).reshape(-1, *[1] * axes)


def _transposed_pads(
    node: Node, x: Tensor, w: Tensor, strides: list[int], dilations: list[int], extra: list[int]
) -> tuple[list[int], list[int]]:
    """What is cut off at the start and the end of each axis; `extra` is added at the end."""
    target = node.attribute("output_shape")
    mode = node.attribute("auto_pad", "NOTSET")
    if target is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        target = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    if target is None:
        return spatial_pads(node, x.shape[2:], w.shape[2:], strides, dilations)
    extent = [d * (k - 1) + 1 for d, k in zip(dilations, w.shape[2:], strict=True)]
    full = [s * (n - 1) + p + e for s, n, p, e in zip(strides, x.shape[2:], extra, extent, strict=True)]
    cut = [max(0, f - t) for f, t in zip(full, target[-len(strides) :], strict=True)]
    begin = [c // 2 if mode == "SAME_UPPER" else c - c // 2 for c in cut]
    return begin, [c - b for c, b in zip(cut, begin, strict=True)]


def _cropped(
    w: Tensor, taps: Sequence[_Taps], dilations: Sequence[int], begin: Sequence[int], end: Sequence[int]
) -> tuple[Tensor, list[int], list[int]]:
    """The kernel with only its taps from first to last on each axis, and the padding that leaves the output as it is.

    What is cut off has no influence, and a gradient of zero.
    """
    lost = [(one.first, size - one.last) for one, size in zip(taps, w.shape[2:], strict=True)]
    if any(map(any, lost)):
        for axis, one in enumerate(taps, 2):
            w = w.narrow(axis, one.first, one.last - one.first)
    return (
        w,
        [b - d * first for b, d, (first, _) in zip(begin, dilations, lost, strict=True)],
        [e - d * last for e, d, (_, last) in zip(end, dilations, lost, strict=True)],
    )


@lru_cache(maxsize=4096)
def _taps_of_conv(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int) -> _Taps:
    """The taps that meet data."""
    last = (size + begin + end - dilation * (kernel - 1) - 1) // stride  # output
    return _Taps.of(
        [
            max(0, -((tap * dilation - begin) // stride)) <= min(last, (size - 1 + begin - tap * dilation) // stride)
            for tap in range(kernel)
        ]
    )


@lru_cache(maxsize=4096)
def _taps_of_transpose(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int) -> _Taps:
    """The taps that reach an output."""
    outputs = stride * (size - 1) + dilation * (kernel - 1) + 1 - begin - end
    return _Taps.of(
        [
            max(0, -((tap * dilation - begin) // stride))
            <= min(size - 1, (outputs - 1 + begin - tap * dilation) // stride)
            for tap in range(kernel)
        ]
    )


def _every(strides: Sequence[int]) -> tuple[Any, ...]:
    """The index of every stride-th position along each spatial axis."""
    return (..., *(slice(None, None, stride) for stride in strides))


def _spread(y: Tensor, strides: Sequence[int]) -> Tensor:
    """Values `strides` apart, zeros between them."""
    sizes = [stride * (size - 1) + 1 for size, stride in zip(y.shape[2:], strides, strict=True)]
    last = y.dim() == 4 and y.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    wide = torch.empty(*y.shape[:2], *sizes, dtype=y.dtype, device=y.device, memory_format=layout).zero_()
    wide[_every(strides)] = y
    return wide


def _fresh(x: Tensor) -> Tensor:
    """`x` with the strides of a tensor just made: slices and transpositions leave others along axes of length 1."""
    if x.dim() != 4 or 1 not in x.shape:
        return x
    layouts = (torch.contiguous_format, torch.channels_last)
    if x.stride() in [torch.empty(x.shape, device="meta", memory_format=layout).stride() for layout in layouts]:
        return x
    return x.clone(memory_format=layouts[x.shape[1] > 1 and x.stride(1) == 1])
