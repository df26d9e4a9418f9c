from __future__ import annotations

from math import prod

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import Cost, CostModel, cost

Shape = tuple[int, ...]


def graph_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, Shape], weights: dict[str, Shape | np.ndarray], outputs: list[str]
) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    initializers = [
        numpy_helper.from_array(
            value if isinstance(value, np.ndarray) else rng.standard_normal(value).astype(np.float32), name
        )
        for name, value in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def cost_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Shape],
    weights: dict[str, Shape | np.ndarray],
    activations: dict[str, Shape],
) -> Cost:
    """`activations` are the nodes' outputs; the last is the graph's."""
    proto = graph_of(nodes, inputs, weights, [list(activations)[-1]])
    return cost(proto, inputs | {t.name: tuple(t.dims) for t in proto.graph.initializer} | activations)


CONV = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv")


def test_conv_counts_weights_bias_and_macs() -> None:
    counted = cost_of([CONV], {"x": (1, 3, 8, 8)}, {"w": (16, 3, 3, 3), "b": (16,)}, {"y": (1, 16, 6, 6)})
    assert counted.params == 16 * 27 + 16
    assert counted.macs == 16 * 36 * 27
    assert [(layer.name, layer.op) for layer in counted.layers] == [("conv", "Conv")]


@pytest.mark.parametrize(
    ("op", "attributes", "x", "weights", "y", "macs"),
    [
        ("Conv", {"group": 8}, (1, 8, 4, 4), [(8, 1, 3, 3)], (1, 8, 2, 2), 8 * 4 * 9),
        ("ConvTranspose", {}, (1, 6, 4, 4), [(6, 5, 2, 2), (5,)], (1, 5, 5, 5), 16 * 6 * 5 * 4),
        ("Gemm", {"transB": 1}, (2, 7), [(5, 7), (5,)], (2, 5), 2 * 7 * 5),
        ("Gemm", {"transA": 1}, (7, 2), [(7, 5), (5,)], (2, 5), 2 * 7 * 5),
        ("MatMul", {}, (2, 9, 7), [(7, 5)], (2, 9, 5), 2 * 9 * 7 * 5),
        ("LSTM", {"hidden_size": 4}, (5, 2, 3), [(1, 16, 3), (1, 16, 4), (1, 32)], (5, 1, 2, 4), 10 * 16 * 7),
        ("GRU", {"hidden_size": 4}, (5, 2, 3), [(1, 12, 3), (1, 12, 4)], (5, 1, 2, 4), 10 * 12 * 7),
        ("Einsum", {"equation": "...i,io->...o"}, (2, 9, 7), [(7, 5)], (2, 9, 5), 2 * 9 * 7 * 5),
    ],
)
def test_macs_and_params_by_op(
    op: str, attributes: dict[str, object], x: Shape, weights: list[Shape], y: Shape, macs: int
) -> None:
    names = [f"w{i}" for i in range(len(weights))]
    node = helper.make_node(op, ["x", *names], ["y"], **attributes)
    counted = cost_of([node], {"x": x}, dict(zip(names, weights, strict=True)), {"y": y})
    assert counted.macs == macs
    assert counted.params == sum(map(prod, weights))


def test_attention_counts_scores_and_values() -> None:
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2)
    inputs = {"q": (1, 5, 8), "k": (1, 7, 8), "v": (1, 7, 8)}
    assert cost_of([node], inputs, {}, {"y": (1, 5, 8)}).macs == 2 * (5 * 7 * 8)


def test_batchnorm_counts_scale_and_shift_only() -> None:
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])
    weights: dict[str, Shape | np.ndarray] = {"s": (6,), "b": (6,), "m": (6,), "v": np.ones(6, np.float32)}
    counted = cost_of([node], {"x": (1, 6, 2, 2)}, weights, {"y": (1, 6, 2, 2)})
    assert (counted.params, counted.macs) == (12, 0)


def test_shared_weight_counts_once_and_multiplies_twice() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    counted = cost_of(nodes, {"x": (1, 4)}, {"w": (4, 4)}, {"h": (1, 4), "y": (1, 4)})
    assert (counted.params, counted.macs) == (16, 32)
    assert [layer.name for layer in counted.layers] == ["h", "y"]


def test_separate_bias_counts_and_constants_do_not() -> None:
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0))).astype(np.float32)[None]
    nodes = [
        helper.make_node("Add", ["x", "bias"], ["h"]),
        helper.make_node("Add", ["h", "grid"], ["g"]),
        helper.make_node("Mul", ["g", "half"], ["c"]),
        helper.make_node("Clip", ["c", "low", "high"], ["y"]),
    ]
    shape = (1, 2, 4, 4)
    weights: dict[str, Shape | np.ndarray] = {"bias": (2, 1, 1), "grid": grid, "half": (), "low": (), "high": ()}
    assert cost_of(nodes, {"x": shape}, weights, dict.fromkeys(["h", "g", "c", "y"], shape)).params == 2


def test_memory_is_the_peak_of_what_is_alive_together() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),  # x, a
        helper.make_node("Concat", ["a", "a"], ["b"], axis=1),  # a, b
        helper.make_node("ReduceMean", ["b"], ["c"], axes=[1]),  # b, c
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT16),
    ]
    counted = cost_of(nodes, {"x": (1, 10)}, {}, {"a": (1, 10), "b": (1, 20), "c": (1, 1), "y": (1, 1)})
    assert counted.memory_bytes == 4 * 30


def test_candidate_widths_need_no_model() -> None:
    """Counting narrower shapes equals counting the narrower model, to a few bytes of protobuf lengths."""

    def model(width: int) -> tuple[onnx.ModelProto, dict[str, Shape]]:
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["a"]),
            helper.make_node("Conv", ["a", "w2", "b2"], ["b"], group=width),
            helper.make_node("Conv", ["b", "w3"], ["y"]),
        ]
        weights: dict[str, Shape | np.ndarray] = {
            "w1": (width, 3, 1, 1),
            "w2": (width, 1, 3, 3),
            "b2": (width,),
            "w3": (4, width, 1, 1),
        }
        proto = graph_of(nodes, {"x": (1, 3, 8, 8)}, weights, ["y"])
        shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in proto.graph.initializer}
        return proto, shapes | {"x": (1, 3, 8, 8), "a": (1, width, 8, 8), "b": (1, width, 6, 6), "y": (1, 4, 6, 6)}

    wide, _ = model(300)
    narrow, narrow_shapes = model(24)
    expected, got = cost(narrow, narrow_shapes), CostModel(wide)(narrow_shapes)
    assert (got.params, got.macs, got.memory_bytes) == (expected.params, expected.macs, expected.memory_bytes)
    assert abs(got.size_bytes - narrow.ByteSize()) < 32


def test_a_tensor_without_shape_is_named() -> None:
    proto = graph_of([CONV], {"x": (1, 3, 8, 8)}, {"w": (16, 3, 3, 3), "b": (16,)}, ["y"])
    with pytest.raises(NetadaptError, match="'y'"):
        cost(proto, {"w": (16, 3, 3, 3), "b": (16,), "x": (1, 3, 8, 8)})
