"""Graphs of any number of parts, each of one shape: what grows with them is work, and it must not grow faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, SIZE = 4, 4
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node, info = helper.make_node, helper.make_tensor_value_info


def constant(name: str, *shape: int) -> onnx.TensorProto:
    seed = sum(map(ord, name))
    return numpy_helper.from_array((np.random.default_rng(seed).standard_normal(shape) / 4).astype(np.float32), name)


def between(
    parts: Sequence[onnx.NodeProto],
    last: str,
    constants: Sequence[onnx.TensorProto] = (),
    *,
    functions: Sequence[onnx.FunctionProto] = (),
    batch: int | str = 1,
) -> onnx.ModelProto:
    """`parts` between two convs: they read `t0` of 2 * WIDTH channels and put out `last` of as many."""
    first = node("Conv", ["x", "first"], ["t0"], name="first")
    final = node("Conv", [last, "final"], ["y"], name="final")
    weights = [constant("first", 2 * WIDTH, WIDTH, 1, 1), constant("final", WIDTH, 2 * WIDTH, 1, 1)]
    shape = [batch, WIDTH, SIZE, SIZE]
    graph = helper.make_graph(
        [first, *parts, final], "g", [info("x", FLOAT, shape)], [info("y", FLOAT, shape)], [*weights, *constants]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


def chain(n: int) -> onnx.ModelProto:
    return between([node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(n)], f"t{n}")


def pairs(n: int) -> onnx.ModelProto:
    parts, constants = [], []
    for i in range(n):
        parts.append(node("Conv", [f"t{i}", f"a{i}"], [f"u{i}"], name=f"wide{i}"))
        parts.append(node("Conv", [f"u{i}", f"b{i}"], [f"t{i + 1}"], name=f"narrow{i}"))
        constants += [constant(f"a{i}", 6, 8, 1, 1), constant(f"b{i}", 8, 6, 1, 1)]
    return between(parts, f"t{n}", constants)


def fan(n: int) -> onnx.ModelProto:
    """One tensor with n readers, whose results are concatenated."""
    parts = [node("Conv", ["t0", f"a{i}"], [f"u{i}"], name=f"branch{i}") for i in range(n)]
    parts += [node("Concat", [f"u{i}" for i in range(n)], ["all"], axis=1)]
    parts += [node("Conv", ["all", "join"], ["t"], name="join")]
    constants = [*(constant(f"a{i}", 2, 8, 1, 1) for i in range(n)), constant("join", 8, 2 * n, 1, 1)]
    return between(parts, "t", constants)


def sums(n: int) -> onnx.ModelProto:
    """One sum of n terms."""
    parts = [node("Conv", ["t0", f"a{i}"], [f"u{i}"], name=f"term{i}") for i in range(n)]
    parts += [node("Sum", [f"u{i}" for i in range(n)], ["t"])]
    return between(parts, "t", [constant(f"a{i}", 8, 8, 1, 1) for i in range(n)])


def outputs(n: int) -> onnx.ModelProto:
    model = between([node("Conv", ["t0", f"a{i}"], [f"out{i}"], name=f"head{i}") for i in range(n)], "t0")
    model.graph.output.extend(info(f"out{i}", FLOAT, [1, 2, SIZE, SIZE]) for i in range(n))
    model.graph.initializer.extend(constant(f"a{i}", 2, 8, 1, 1) for i in range(n))
    return model


def shared(n: int) -> onnx.ModelProto:
    """n constants, each read beside each of two layers."""
    parts = [node("Conv", ["x", "other"], ["s0"], name="other")]
    for i in range(n):
        parts += [node("Mul", [f"{side}{i}", f"scale{i}"], [f"{side}{i + 1}"]) for side in "ts"]
    parts += [node("Concat", [f"t{n}", f"s{n}"], ["both"], axis=1), node("Conv", ["both", "join"], ["t"], name="join")]
    constants = [constant("other", 8, WIDTH, 1, 1), constant("join", 8, 16, 1, 1)]
    return between(parts, "t", [*constants, *(constant(f"scale{i}", 1, 8, 1, 1) for i in range(n))])


def branches(n: int, decided: bool = False) -> onnx.ModelProto:
    parts = [node("ReduceSum", ["x"], ["sum"], keepdims=0), node("Greater", ["sum", "zero"], ["positive"])]
    for i in range(n):
        graphs = {
            side: helper.make_graph(
                [node(op, [f"t{i}"], [f"{side}{i}"])], f"{side}{i}", [], [info(f"{side}{i}", FLOAT, None)]
            )
            for side, op in (("then_branch", "Relu"), ("else_branch", "Sigmoid"))
        }
        condition = "true" if decided else "positive"
        parts.append(node("If", [condition], [f"t{i + 1}"], name=f"if{i}", **graphs))
    zero = numpy_helper.from_array(np.float32(0), "zero")
    return between(parts, f"t{n}", [zero, numpy_helper.from_array(np.array(True), "true")])


def decided(n: int) -> onnx.ModelProto:
    return branches(n, decided=True)


def carried(n: int) -> onnx.ModelProto:
    """One loop that carries n values, half of them unchanged."""
    inner = [node("Identity", ["go"], ["on"])]
    inner += [node("Identity" if i % 2 else "Relu", [f"a{i}"], [f"b{i}"]) for i in range(n)]
    inputs = [info("i", INT64, []), info("go", BOOL, []), *(info(f"a{i}", FLOAT, None) for i in range(n))]
    body = helper.make_graph(
        inner, "b", inputs, [info("on", BOOL, []), *(info(f"b{i}", FLOAT, None) for i in range(n))]
    )
    parts = [node("Relu", ["t0"], [f"u{i}"]) for i in range(n)]
    names = [f"u{i}" for i in range(n)]
    parts.append(node("Loop", ["three", "", *names], [f"v{i}" for i in range(n)], name="loop", body=body))
    parts.append(node("Sum", [f"v{i}" for i in range(n)], ["t"]))
    return between(parts, "t", [numpy_helper.from_array(np.array(3), "three")])


def functions(n: int) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17)]
    inner = [node("Relu", ["a"], ["m"]), node("Sigmoid", ["m"], ["b"])]
    own = [helper.make_function("own", f"F{i}", ["a"], ["b"], inner, opsets) for i in range(n)]
    return between([node(f"F{i}", [f"t{i}"], [f"t{i + 1}"], domain="own") for i in range(n)], f"t{n}", functions=own)


def shape_arithmetic(n: int) -> onnx.ModelProto:
    """A dynamic batch that n Reshapes get from the shape of what they reshape."""
    parts = []
    for i in range(n):
        parts += [
            node("Shape", [f"t{i}"], [f"shape{i}"]),
            node("Gather", [f"shape{i}", "first_axis"], [f"batch{i}"]),
            node("Concat", [f"batch{i}", "rest"], [f"target{i}"], axis=0),
            node("Reshape", [f"t{i}", f"target{i}"], [f"t{i + 1}"]),
        ]
    numbers = {"first_axis": [0], "rest": [2 * WIDTH, SIZE, SIZE]}
    return between(parts, f"t{n}", [numpy_helper.from_array(np.array(v), k) for k, v in numbers.items()], batch="N")


def shuffles(n: int) -> onnx.ModelProto:
    parts = []
    for i in range(n):
        parts += [
            node("Reshape", [f"t{i}", "apart"], [f"p{i}"]),
            node("Transpose", [f"p{i}"], [f"q{i}"], perm=[0, 2, 1, 3, 4]),
            node("Reshape", [f"q{i}", "together"], [f"r{i}"]),
            node("Conv", [f"r{i}", f"a{i}"], [f"t{i + 1}"], name=f"unit{i}"),
        ]
    numbers = {"apart": [0, 2, WIDTH, SIZE, SIZE], "together": [0, 2 * WIDTH, SIZE, SIZE]}
    constants = [numpy_helper.from_array(np.array(v), k) for k, v in numbers.items()]
    return between(parts, f"t{n}", [*constants, *(constant(f"a{i}", 8, 8, 1, 1) for i in range(n))])


def quantised(n: int) -> onnx.ModelProto:
    parts, constants = [], []
    for i in range(n):
        parts += [
            node("DequantizeLinear", [f"a{i}", "scale", "point"], [f"w{i}"]),
            node("Conv", [f"t{i}", f"w{i}"], [f"t{i + 1}"], name=f"layer{i}"),
        ]
        weights = np.random.default_rng(i).integers(-100, 100, (8, 8, 1, 1)).astype(np.int8)
        constants.append(numpy_helper.from_array(weights, f"a{i}"))
    constants += [numpy_helper.from_array(np.float32(0.02), "scale"), numpy_helper.from_array(np.int8(0), "point")]
    return between(parts, f"t{n}", constants)


def states(n: int) -> onnx.ModelProto:
    """A chain of recurrent layers, each with a state that the caller keeps. All of its groups are pinned."""
    parts, constants = [], [numpy_helper.from_array(np.array([1]), "axis")]
    inputs, outputs = [info("s0", FLOAT, [3, 1, WIDTH])], [info(f"s{n}", FLOAT, [3, 1, WIDTH])]
    for i in range(n):
        weights = [f"w{i}", f"r{i}"]
        layer = node("RNN", [f"s{i}", *weights, "", "", f"h{i}"], [f"y{i}", f"g{i}"], name=f"rnn{i}", hidden_size=WIDTH)
        parts += [layer, node("Squeeze", [f"y{i}", "axis"], [f"s{i + 1}"])]
        constants += [constant(name, 1, WIDTH, WIDTH) for name in weights]
        inputs.append(info(f"h{i}", FLOAT, [1, 1, WIDTH]))
        outputs.append(info(f"g{i}", FLOAT, [1, 1, WIDTH]))
    graph = helper.make_graph(parts, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


KINDS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "chain": chain,
    "pairs": pairs,
    "fan": fan,
    "sums": sums,
    "outputs": outputs,
    "shared": shared,
    "branches": branches,
    "decided": decided,
    "carried": carried,
    "functions": functions,
    "shape_arithmetic": shape_arithmetic,
    "shuffles": shuffles,
    "quantised": quantised,
}


def nested_branches(depth: int) -> onnx.ModelProto:
    """An If in a branch of an If, and so on."""
    inner = [node("Relu", ["t0"], ["r0"])]
    for k in range(1, depth + 1):
        graphs = {
            "then_branch": helper.make_graph(inner, f"then{k}", [], [info(f"r{k - 1}", FLOAT, None)]),
            "else_branch": helper.make_graph(
                [node("Sigmoid", ["t0"], [f"s{k}"])], f"else{k}", [], [info(f"s{k}", FLOAT, None)]
            ),
        }
        inner = [node("If", ["positive"], [f"r{k}"], name=f"if{k}", **graphs)]
    parts = [node("ReduceSum", ["x"], ["sum"], keepdims=0), node("Greater", ["sum", "zero"], ["positive"]), *inner]
    return between(parts, f"r{depth}", [numpy_helper.from_array(np.float32(0), "zero")])
