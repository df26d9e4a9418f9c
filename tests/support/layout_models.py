"""Small models whose outputs hold their samples in many ways, or that run in one batch only."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from models import Builder


def hidden(b: Builder, x: str = "x") -> str:
    return b.relu(b.fc(x, 8, 24))


def time_major() -> onnx.ModelProto:
    """Scores by position, positions first: (T, N, C), as of CRNNs and of nn.LSTM and nn.Transformer."""
    b = Builder()
    x = b.relu(b.conv(b.relu(b.conv("x", 3, 8)), 8, 12))
    x = b.node("Reshape", [x, b.constant("flat", np.array([0, 12, -1]))])
    x = b.node("Transpose", [x], perm=[2, 0, 1])
    x = b.node("Add", [b.node("MatMul", [x, b.random("w", (12, 5), 12)]), b.random("bias", (5,))])
    b.node("LogSoftmax", [x], output="y", axis=-1)
    return b.model({"x": ("N", 3, 4, 4)}, {"y": (16, "N", 5)})


def ensemble(*, joined: bool = False) -> onnx.ModelProto:
    """Two networks' answers, stacked (2, N, 5), or one batch behind the other (2 N, 5)."""
    b = Builder()
    members = [b.fc(hidden(b), 24, 5) for _ in range(2)]
    if joined:
        b.node("Concat", members, output="y", axis=0)
        return b.model({"x": ("N", 8)}, {"y": ("M", 5)})
    axis = b.constant("first", np.array([0]))
    stacked = b.node("Concat", [b.node("Unsqueeze", [m, axis]) for m in members], axis=0)
    b.node("Softmax", [stacked], output="y", axis=2)
    return b.model({"x": ("N", 8)}, {"y": (2, "N", 5)})


def windows() -> onnx.ModelProto:
    """Four windows of each sample in one list: (4 N, 5)."""
    b = Builder()
    x = b.node("Reshape", [hidden(b), b.constant("windows", np.array([-1, 6]))])
    b.fc(x, 6, 5, output="y")
    return b.model({"x": ("N", 8)}, {"y": ("M", 5)})


def similarity(*, alone: bool = False) -> onnx.ModelProto:
    """Each sample against each, as CLIP's logits; and the embeddings, unless it is `alone`."""
    b = Builder()
    embedded = b.fc(hidden(b), 24, 6, output="embedded")
    b.node("MatMul", [embedded, b.node("Transpose", [embedded], perm=[1, 0])], output="y")
    shapes: dict[str, tuple[int | str, ...]] = {"y": ("N", "N"), "embedded": ("N", 6)}
    return b.model({"x": ("N", 8)}, {"y": ("N", "N")} if alone else shapes)


def batch_mean() -> onnx.ModelProto:
    b = Builder()
    y = b.fc(hidden(b), 24, 5, output="y")
    b.node("ReduceMean", [y], output="mean", axes=[0], keepdims=0)
    return b.model({"x": ("N", 8)}, {"y": ("N", 5), "mean": (5,)})


def detections() -> onnx.ModelProto:
    """Scores, and the places of those above zero: as many as there are."""
    b = Builder()
    y = b.fc(hidden(b), 24, 5, output="y")
    places = b.node("NonZero", [b.relu(y)])
    proto = b.model({"x": ("N", 8)}, {"y": ("N", 5)})
    proto.graph.output.append(helper.make_tensor_value_info(places, TensorProto.INT64, [2, None]))
    return proto


def classifier_with_maps(*, scores: bool = True) -> onnx.ModelProto:
    """What skl2onnx makes of a classifier: the class, and a map of probabilities for each sample."""
    b = Builder()
    y = b.fc(hidden(b), 24, 3, output="y")
    proto = b.model({"x": ("N", 8)}, {"y": ("N", 3)})
    nodes = [
        helper.make_node("ArgMax", [y], ["class"], axis=1, keepdims=0),
        helper.make_node("ZipMap", [y], ["maps"], "maps", domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    proto.graph.node.extend(nodes)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    probabilities = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    )
    others = [
        helper.make_tensor_value_info("class", TensorProto.INT64, ["N"]),
        helper.make_value_info("maps", helper.make_sequence_type_proto(probabilities)),
    ]
    if not scores:
        del proto.graph.output[:]
    proto.graph.output.extend(others)
    return proto


def attention(batch: int | str = 1) -> onnx.ModelProto:
    """Attention written for a sample at a time: the batch is reshaped away, so positions of all samples would mix."""
    b = Builder()
    x = b.node("Reshape", [b.relu(b.fc("x", 8, 16)), b.constant("flat", np.array([-1, 8]))])
    scores = b.node("MatMul", [x, b.node("Transpose", [x], perm=[1, 0])])
    scores = b.node("Softmax", [b.node("Mul", [scores, b.constant("scale", np.float32(0.1))])], axis=1)
    x = b.node("Reshape", [b.node("MatMul", [scores, x]), b.constant("whole", np.array([-1, 16]))])
    b.fc(b.relu(b.fc(x, 16, 24)), 24, 5, output="y")
    return b.model({"x": (batch, 8)}, {"y": (batch, 5)})


def tracker(batch: int | str = 1) -> onnx.ModelProto:
    """Features of a template are the kernels that search another picture, as of siamese trackers: one at a time."""
    b = Builder()
    first, second = b.random("w1", (12, 3, 3, 3), 27), b.random("w2", (6, 12, 1, 1), 12)
    x, z = (b.relu(b.node("Conv", [name, first], f"stem_{name}", kernel_shape=[3, 3])) for name in ("x", "z"))
    x, z = (b.node("Conv", [value, second]) for value in (x, z))
    b.conv(b.node("Conv", [x, z], "match"), 1, 2, 1, name="head")
    return b.model({"x": (batch, 3, 8, 8), "z": (batch, 3, 5, 5)}, {"head_out": (batch, 2, 4, 4)})


def rows_of_three() -> onnx.ModelProto:
    """A batch of three that a constant fixes, and that the answers of samples do not depend on."""
    b = Builder()
    x = b.node("Reshape", [hidden(b), b.constant("rows", np.array([3, 2, 12]))])
    x = b.node("Reshape", [b.node("Softmax", [x], axis=2), b.constant("whole", np.array([3, 24]))])
    b.fc(b.relu(b.fc(x, 24, 16)), 16, 5, output="y")
    return b.model({"x": (3, 8)}, {"y": (3, 5)})


def boxes_of_two() -> onnx.ModelProto:
    """Boxes of two levels in one list (2, M, 4), as of SSD; the batch is written into the Reshapes."""
    b = Builder()
    levels = []
    for stride in (1, 2):
        y = b.node("Transpose", [b.conv(b.relu(b.conv("x", 3, 8)), 8, 4, stride=stride)], perm=[0, 2, 3, 1])
        levels.append(b.node("Reshape", [y, b.constant(f"list{stride}", np.array([2, -1, 4]))]))
    b.node("Concat", levels, output="y", axis=1)
    return b.model({"x": (2, 3, 4, 4)}, {"y": (2, 20, 4)})
