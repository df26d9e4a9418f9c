"""Digests of what tensors are computed from."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

import models
from netadapt_onnx.graph.value_digests import value_digests


def changed_after(edit: str) -> set[str]:
    """The tensors of a network whose digests differ once its second convolution has another weight or attribute."""
    before, after = models.plain((8, 12, 8)), models.plain((8, 12, 8))
    if edit == "weight":
        tensor = next(t for t in after.graph.initializer if t.name == "conv2.weight")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(1), tensor.name))
    else:
        node = next(node for node in after.graph.node if node.name == "conv2")
        next(a for a in node.attribute if a.name == "pads").ints[0] = 2
    ours, theirs = value_digests(before), value_digests(after)
    assert ours.keys() == theirs.keys()
    return {name for name in ours if ours[name] != theirs[name]}


def test_a_weight_changes_what_is_computed_from_it_and_nothing_else() -> None:
    proto = models.plain((8, 12, 8))
    behind: set[str] = {"conv2.weight"}
    for node in proto.graph.node:
        if not behind.isdisjoint(node.input):
            behind.update(node.output)
    assert changed_after("weight") == behind


def test_an_attribute_changes_what_is_computed_from_it() -> None:
    assert changed_after("pads") == changed_after("weight") - {"conv2.weight"}


def test_what_a_subgraph_reads_counts() -> None:
    def chosen(value: float) -> onnx.ModelProto:
        b = models.Builder()
        outside = b.constant("outside", np.float32(value))
        b.nodes, nodes = [], b.nodes
        y = b.node("Add", ["x", outside], output="y")
        body = onnx.helper.make_graph(b.nodes, "body", [], [onnx.helper.make_tensor_value_info(y, 1, None)])
        b.nodes = nodes
        condition = b.constant("condition", np.array(True))
        b.nodes.append(onnx.helper.make_node("If", [condition], ["out"], "if", then_branch=body, else_branch=body))
        return b.model({"x": (2, 3)}, {"out": (2, 3)})

    assert value_digests(chosen(1.0))["out"] != value_digests(chosen(2.0))["out"]
    assert value_digests(chosen(1.0))["out"] == value_digests(chosen(1.0))["out"]
