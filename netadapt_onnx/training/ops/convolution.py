"""Conv and ConvTranspose."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.training.ops.padding import pad_spatial, spatial_pads
from netadapt_onnx.training.ops.registry import Node, op

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@op("Conv")
def conv(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Shapes: x (N, C, *spatial); w (O, C/group, *kernel); y (N, O, *spatial')."""
    axes = w.dim() - 2
    strides = node.attribute("strides") or [1] * axes
    dilations = node.attribute("dilations") or [1] * axes
    begin, end = spatial_pads(node, x.shape[2:], w.shape[2:], strides, dilations)
    if begin != end:
        x, begin = pad_spatial(x, begin, end), [0] * axes
    # The attribute may be stale after surgery of a depthwise layer; the shapes cannot be.
    groups = x.shape[1] // w.shape[1]
    y: Tensor = _CONV[axes](x, w, b, strides, begin, dilations, groups)
    return y


@op("ConvTranspose")
def conv_transpose(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Shapes: x (N, C, *spatial); w (C, O/group, *kernel); y (N, O, *spatial')."""
    axes = w.dim() - 2
    strides = node.attribute("strides") or [1] * axes
    dilations = node.attribute("dilations") or [1] * axes
    extra = list(node.attribute("output_padding") or [0] * axes)
    extent = [d * (k - 1) + 1 for d, k in zip(dilations, w.shape[2:], strict=True)]
    target = node.attribute("output_shape")
    mode = node.attribute("auto_pad", "NOTSET")
    if target is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        target = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    if target is not None:
        full = [s * (n - 1) + p + e for s, n, p, e in zip(strides, x.shape[2:], extra, extent, strict=True)]
        cut = [max(0, f - t) for f, t in zip(full, target[-axes:], strict=True)]
        begin = [c // 2 if mode == "SAME_UPPER" else c - c // 2 for c in cut]
        end = [c - b for c, b in zip(cut, begin, strict=True)]
    else:
        begin, end = spatial_pads(node, x.shape[2:], w.shape[2:], strides, dilations)
    groups = node.attribute("group", 1)
    symmetric = begin == end and all(e == 0 or e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    if symmetric:
        y: Tensor = _CONV_TRANSPOSE[axes](x, w, b, strides, begin, extra, groups, dilations)
        return y
    y = _CONV_TRANSPOSE[axes](x, w, b, strides, 0, 0, groups, dilations)
    return pad_spatial(y, [-p for p in begin], [e - p for e, p in zip(extra, end, strict=True)])
