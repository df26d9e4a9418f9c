"""Draws labels.svg: the channels of every tensor of a small network, coloured by the group that surgery found for them.

python docs/pictures/labels.py       # a test compares the picture with the one that is committed
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.surgery.trace import Trace, trace

FOLDER = Path(__file__).resolve().parent
WIDE, NARROW = 6, 4
# Node: its operator, column and row; inputs as lines come from the graph itself.
PLACES = {
    "stem": (1, 0),
    "a": (0, 1),
    "relu": (0, 2),
    "b": (0, 3),
    "add": (1, 4),
    "c": (2, 5),
    "concat": (1, 6),
    "mean": (1, 7),
    "fc": (1, 8),
}
COLOURS = ("#2f6fb0", "#d9822b", "#3a9a5b", "#8e5bb5")
PINNED = "#9aa0a8"
COLUMN, ROW, BOX, CELL = 240, 62, (222, 30), 13


def network() -> onnx.ModelProto:
    """A residual block whose output is joined with what a convolution makes of it, then a classifier."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    def node(op: str, name: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(op, list(inputs), [name], name=name, **attributes)

    weights = [
        weight("stem.w", WIDE, 3, 3, 3),
        weight("a.w", NARROW, WIDE, 3, 3),
        weight("b.w", WIDE, NARROW, 3, 3),
        weight("c.w", NARROW, WIDE, 1, 1),
        weight("fc.w", WIDE + NARROW, 5),
    ]
    nodes = [
        node("Conv", "stem", "image", "stem.w", pads=[1] * 4),
        node("Conv", "a", "stem", "a.w", pads=[1] * 4),
        node("Relu", "relu", "a"),
        node("Conv", "b", "relu", "b.w", pads=[1] * 4),
        node("Add", "add", "stem", "b"),
        node("Conv", "c", "add", "c.w"),
        node("Concat", "concat", "add", "c", axis=1),
        node("ReduceMean", "mean", "concat", axes=[2, 3], keepdims=0),
        node("MatMul", "fc", "mean", "fc.w"),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("fc", TensorProto.FLOAT, [1, 5])]
    graph = helper.make_graph(nodes, "picture", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def drawing() -> str:
    """The picture as SVG."""
    proto = network()
    model_trace = trace(fold(proto))
    colours = {g.name: COLOURS[i] if g.prunable else PINNED for i, g in enumerate(model_trace.groups)}
    lines, boxes = [], []
    for node in proto.graph.node:
        x, y = _middle(node.name)
        for source in node.input:
            if source in PLACES:
                x0, y0 = _middle(source)
                lines.append(f'<path d="M{x0} {y0 + BOX[1]} C{x0} {y0 + ROW} {x} {y - 26} {x} {y}"/>')
        boxes.append(f'<rect x="{x - BOX[0] / 2:g}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="6"/>')
        boxes.append(f'<text x="{x - BOX[0] / 2 + 8:g}" y="{y + 20}">{escape(_called(node))}</text>')
        boxes += _channels(model_trace, colours, node.name, x, y)
    legend = [
        f'<rect x="{24 + 165 * i}" y="{_bottom() + 6}" width="11" height="11" fill="{colour}"/>'
        f'<text x="{40 + 165 * i}" y="{_bottom() + 16}">{"output" if colour == PINNED else "group"} {name}</text>'
        for i, (name, colour) in enumerate(colours.items())
    ]
    width, height = 3 * COLUMN, _bottom() + 30
    plain = [box for box in boxes if box.startswith("<rect") and "fill" not in box]
    above = [part for part in (*boxes, *legend) if part not in plain]
    layers = {
        'fill="none" stroke="#b7bcc4" stroke-width="1.5"': lines,
        'fill="#f4f5f7"': plain,
        'fill="#1c1f23" font-family="sans-serif" font-size="12"': above,
    }
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'role="img" aria-label="Channels of a small network, coloured by group">',
            f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>',
            *(f"<g {style}>\n{chr(10).join(parts)}\n</g>" for style, parts in layers.items()),
            "</svg>\n",
        ]
    )


def _called(node: onnx.NodeProto) -> str:
    return node.op_type if node.name in node.op_type.lower() and len(node.name) > 2 else f"{node.op_type} {node.name}"


def _channels(model_trace: Trace, colours: dict[str, str], tensor: str, x: int, y: int) -> list[str]:
    """One square per channel, from the right edge of the box on."""
    (_, line), *_ = [axis for axis in model_trace.axes[tensor] if axis[0] == 1]
    owner = {int(label): name for name, labels in model_trace.members.items() for label in labels}
    x_left = x + BOX[0] / 2 - len(line) * CELL - 4
    return [
        f'<rect x="{x_left + i * CELL:g}" y="{y + 10}" width="10" height="10" fill="{colours[owner[int(label)]]}"/>'
        for i, label in enumerate(line)
    ]


def _middle(name: str) -> tuple[int, int]:
    column, row = PLACES[name]
    return COLUMN // 2 + column * COLUMN, 16 + row * ROW


def _bottom() -> int:
    return 16 + 8 * ROW + BOX[1] + 10


if __name__ == "__main__":
    (FOLDER / "labels.svg").write_text(drawing(), encoding="utf-8")
