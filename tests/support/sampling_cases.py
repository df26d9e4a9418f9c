"""Cases of operators that sample positions (see `rule_cases.py`)."""

from __future__ import annotations

import numpy as np
import onnx

from models import Builder
from rule_cases import C, S, case, ints


@case("GridSample")
def grid_sample(b: Builder, x: str) -> tuple[str, int]:
    grid = b.node("Tanh", [b.node("Transpose", [b.conv("x", 3, 2, 1)], perm=[0, 2, 3, 1])])
    return b.node("GridSample", [x, grid], align_corners=1), C


@case("RoiAlign", "MaxRoiPool")
def regions(b: Builder, x: str) -> tuple[str, int]:
    boxes = b.constant("boxes", np.array([[0, 0, 5, 6], [1, 2, 7, 7]], np.float32))
    aligned = b.node("RoiAlign", [x, boxes, ints(b, [0, 0])], output_height=S, output_width=S)
    rois = b.constant("rois", np.array([[0, 0, 0, 5, 6], [0, 1, 2, 7, 7]], np.float32))
    pooled = b.node("MaxRoiPool", [x, rois], pooled_shape=[S, S])
    return b.node("Add", [aligned, pooled]), C


@case("ReverseSequence", "CenterCropPad")
def along_some_axes(b: Builder, x: str) -> tuple[str, int]:
    y = b.node("Transpose", [x], perm=[2, 0, 1, 3])
    y = b.node("ReverseSequence", [y, ints(b, [5])], time_axis=0, batch_axis=1)
    y = b.node("Transpose", [y], perm=[1, 2, 0, 3])
    return b.node("CenterCropPad", [y, ints(b, [6, 6])], axes=[2, 3]), C


@case("Col2Im")
def columns(b: Builder, x: str) -> tuple[str, int]:
    y = b.node("Reshape", [x, ints(b, [1, C, S * S])])
    return b.node("Col2Im", [y, ints(b, [2 * S, 2 * S]), ints(b, [2, 2])], strides=[2, 2]), C // 4


@case("DeformConv")
def deformable(b: Builder, x: str) -> tuple[str, int]:
    offsets = b.conv("x", 3, 2 * 9)
    inputs = [x, b.random("dw", (6, C, 3, 3), 9 * C), offsets, b.random("db", (6,))]
    b.nodes.append(onnx.helper.make_node("DeformConv", inputs, ["deformed"], name="deformed", pads=[1] * 4))
    return "deformed", 6
