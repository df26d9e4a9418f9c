"""Normalising: one spelling for what exporters spell in many ways."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import large_graphs
import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import NORMALISE, REWRITE, normalise


def unusual() -> onnx.ModelProto:
    """A file of an old IR version with a nameless graph, constants, Identities and declared shapes."""
    b = models.Builder()
    x = b.node("Constant", [], value=numpy_helper.from_array(np.ones((1, 4), np.float32)))
    b.node("Add", ["x", b.node("Identity", [x])], output="y")
    proto = b.model({"x": (1, 4)}, {"y": (1, 4)})
    proto.graph.input.extend(helper.make_tensor_value_info(t.name, 1, list(t.dims)) for t in proto.graph.initializer)
    proto.graph.value_info.append(helper.make_tensor_value_info(x, 1, (1, 4)))
    proto.graph.name, proto.ir_version = "", 3
    return proto


BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = {
    **models.ALL,
    **{name: lambda kind=kind: kind(3) for name, kind in large_graphs.KINDS.items()},  # type: ignore[misc]
    "unusual": unusual,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_pass_says_whether_it_changed_the_model(name: str) -> None:
    proto = BUILDERS[name]()
    for each in NORMALISE:
        before = proto.SerializeToString(deterministic=True)
        result = each(proto)
        assert result.model is proto, each
        assert result.changed == (proto.SerializeToString(deterministic=True) != before), each


@pytest.mark.parametrize("name", BUILDERS)
def test_normalising_twice_changes_nothing(name: str) -> None:
    proto = BUILDERS[name]()
    normalise(proto)
    assert not normalise(proto).changed


@pytest.mark.parametrize("name", BUILDERS)
def test_a_rewrite_that_changes_nothing_returns_the_same_model(name: str) -> None:
    proto = BUILDERS[name]()
    normalise(proto)
    folded = fold(proto)
    for each in REWRITE:
        result = each(folded)
        assert result.changed == (result.model is not folded), each


def test_initializers_that_are_graph_inputs_are_constants() -> None:
    proto = models.plain((8,))
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    proto.ir_version = 3
    normalise(proto)
    assert [v.name for v in proto.graph.input] == ["image"]
    assert proto.ir_version >= 4
    onnx.checker.check_model(proto, full_check=True)


def test_constant_nodes_and_identities_become_initializers_and_names() -> None:
    b = models.Builder()
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32))
    b.nodes.append(helper.make_node("Constant", [], ["made"], name="constant", value=weight))
    alias = b.node("Identity", ["made"])
    bias = b.node("Identity", [b.random("bias", (4,))])
    x = b.node("Conv", ["image", alias, bias], "conv")
    b.node("Identity", [b.relu(x)], output="y")
    proto = b.model({"image": (1, 3, 4, 4)}, {"y": (1, 4, 4, 4)})
    normalise(proto)
    assert [n.op_type for n in proto.graph.node] == ["Conv", "Relu", "Identity"]  # the last one names the output
    assert list(proto.graph.node[0].input) == ["image", "made", "bias"]
