"""A transposed weight that several places read is cut for none of them alone."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import netadapt_onnx
from gate_fixtures import save
from models import Builder
from netadapt_onnx.errors import NetadaptError


def returned_view() -> onnx.ModelProto:
    """A transposed weight that the classifier reads and the caller gets."""
    proto = transposed_weight()
    proto.graph.output.append(helper.make_tensor_value_info("turned", TensorProto.FLOAT, [32, 5]))
    return proto


def transposed_weight() -> onnx.ModelProto:
    b = Builder()
    weight = b.random("weight", (5, 32))
    b.node("Transpose", [weight], output="turned", perm=[1, 0])
    b.node("MatMul", [b.relu(b.fc("x", 6, 32)), "turned"], output="y")
    return b.model({"x": (1, 6)}, {"y": (1, 5)})


def test_a_view_that_is_an_output_is_not_cut(tmp_path: Path) -> None:
    path = save(returned_view(), tmp_path / "m.onnx")
    group = netadapt_onnx.inspect(path).groups[0]
    assert not group.prunable and "shared with a node that does not cut it" in str(group.reason)


def test_a_view_that_something_else_reads_is_not_cut(tmp_path: Path) -> None:
    proto = transposed_weight()
    proto.graph.input.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, [1, 32]))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 5]))
    proto.graph.node.append(helper.make_node("MatMul", ["u", "turned"], ["z"], "other"))
    assert not netadapt_onnx.inspect(save(proto, tmp_path / "m.onnx")).groups[0].prunable


def test_two_layers_that_read_one_view_are_cut_together(tmp_path: Path) -> None:
    b = Builder()
    b.node("Transpose", [b.random("weight", (5, 32))], output="turned", perm=[1, 0])
    for name in ("y", "z"):
        b.node("MatMul", [b.relu(b.fc("x", 6, 32)), "turned"], output=name)
    path = save(b.model({"x": (1, 6)}, {"y": (1, 5), "z": (1, 5)}), tmp_path / "m.onnx")
    cut = netadapt_onnx.prune(path, tmp_path / "o.onnx", ratio=0.5, check=True)
    assert cut.verify is not None and cut.verify.exact and cut.groups == {"fc1": (32, 16)}
    assert {tuple(t.dims) for t in onnx.load(tmp_path / "o.onnx").graph.initializer if t.name.endswith("weight")} == {
        (16, 6),
        (5, 16),
    }


def test_views_of_views_that_are_read_twice_each_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    levels = 30
    b = Builder(opset=21)
    b.initializers.append(helper.make_tensor("view0", TensorProto.BFLOAT16, [8, 8], [0.5] * 64))
    for i in range(levels):
        b.node("QuantizeLinear", [f"view{i}", f"view{i}"], output=f"bytes{i}", axis=0, block_size=1)
        b.node("DequantizeLinear", [f"bytes{i}", f"view{i}"], output=f"view{i + 1}", axis=0, block_size=1)
    b.node("MatMul", ["x", b.node("Cast", [f"view{levels}"], to=TensorProto.FLOAT)], output="y")
    proto = b.model({"x": (1, 8)}, {"y": (1, 8)})
    with pytest.raises(NetadaptError, match="read along too many ways") as error:
        netadapt_onnx.inspect(save(proto, tmp_path / "m.onnx"))
    assert error.value.code == "too-large"
