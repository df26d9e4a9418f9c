"""Files are checked once, after parsing: what no runtime takes is refused where it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import netadapt_onnx
from gate_fixtures import save
from models import Builder, plain
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load
from netadapt_onnx.graph.onnx_file import read
from netadapt_onnx.graph.validity import check_tensor, require_valid, require_valid_nodes

NO_TEXT = b"\x8e\xff"


# -- what is refused --------------------------------------------------------------------------------------------------


def no_text(old: str) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """The model with one of its texts in another encoding; protobuf's Python writes no such thing."""

    def change(proto: onnx.ModelProto) -> onnx.ModelProto:
        data = proto.SerializeToString().replace(old.encode(), NO_TEXT.ljust(len(old), b"\x8e"))
        return onnx.ModelProto.FromString(data)

    return change


def edited(change: Callable[[onnx.GraphProto], Any]) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def apply(proto: onnx.ModelProto) -> onnx.ModelProto:
        change(proto.graph)
        return proto

    return apply


def versioned(name: str, value: int) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def change(proto: onnx.ModelProto) -> onnx.ModelProto:
        setattr(proto.opset_import[0] if name == "version" else proto, name, value)
        return proto

    return change


def first(graph: onnx.GraphProto, op: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == op)


def retyped(graph: onnx.GraphProto) -> None:
    first(graph, "Conv").attribute[0].type = AttributeProto.STRING


def emptied(graph: onnx.GraphProto) -> None:
    graph.initializer[0].ClearField("raw_data")


def short_of_values(graph: onnx.GraphProto) -> None:
    tensor = graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0, 2.0])


def in_the_wrong_field(graph: onnx.GraphProto) -> None:
    tensor = graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.int64_data.extend([1] * tensor.dims[0])


def within_an_attribute(graph: onnx.GraphProto) -> None:
    value = numpy_helper.from_array(np.ones((2, 3), np.float32))
    value.dims[1] = 1 << 40
    graph.node.add(op_type="Constant", output=["c"]).attribute.append(helper.make_attribute("value", value))


def within_a_branch(graph: onnx.GraphProto) -> None:
    inner = helper.make_graph([helper.make_node("Shape", [], ["s"], "sizes")], "inner", [], [])
    graph.node.add(op_type="If", input=["image"], output=["z"]).attribute.extend(
        [helper.make_attribute("then_branch", inner), helper.make_attribute("else_branch", inner)]
    )


def sparse_without_shape(graph: onnx.GraphProto) -> None:
    sparse = graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(2)))


def declared(graph: onnx.GraphProto) -> None:
    graph.value_info.add(name="v").type.CopyFrom(helper.make_tensor_type_proto(99, [1]))


def endless_axis(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**62


def unheard_attribute(graph: onnx.GraphProto) -> None:
    first(graph, "Conv").attribute.add(name="foo", i=1, type=AttributeProto.INT)


def of_no_function(graph: onnx.GraphProto) -> None:
    first(graph, "Conv").attribute[0].ref_attr_name = "kernel"


def foreign_operator(graph: onnx.GraphProto) -> None:
    """Of which ONNX knows nothing but what every attribute has to be."""
    graph.node.add(op_type="Foo", domain="my", output=["o"]).attribute.add(name="a", i=1, type=AttributeProto.STRING)


REFUSED: list[tuple[Callable[[onnx.ModelProto], onnx.ModelProto], str]] = [
    (no_text("conv1_out"), "is no text"),
    (no_text("model"), "a name is no text"),
    (versioned("ir_version", 2**31), "no version of ONNX's file format"),
    (versioned("ir_version", -1), "no version of ONNX's file format"),
    (versioned("version", 2**40), "is no version of the operators of ai.onnx"),
    (versioned("version", 0), "is no version of the operators of ai.onnx"),
    (edited(lambda g: g.input.append(g.input[0])), "two inputs share the name 'image'"),
    (edited(lambda g: g.initializer.append(g.initializer[0])), "two initializers share the name"),
    (edited(declared), "'v' is declared with the unknown type 99"),
    (edited(endless_axis), "axis 1 of 'image' is declared with"),
    (edited(emptied), "holds 0 values"),
    (edited(short_of_values), "holds 2 values"),
    (edited(in_the_wrong_field), "keeps values in int64_data"),
    (edited(lambda g: g.initializer[0].float_data.append(1.0)), "holds its values twice"),
    (edited(within_an_attribute), "is truncated: it holds 24 bytes"),
    (edited(within_a_branch), "has input size 0 not in range"),
    (edited(sparse_without_shape), "has the impossible shape ()"),
    (edited(lambda g: first(g, "Conv").ClearField("input")), "has input size 0 not in range"),
    (edited(lambda g: first(g, "Relu").output.append("more")), "has output size 2 not in range"),
    (edited(unheard_attribute), "Unrecognized attribute: foo"),
    (edited(lambda g: first(g, "Conv").attribute.append(first(g, "Conv").attribute[0])), "appeared multiple times"),
    (edited(retyped), "type"),
    (edited(of_no_function), "stands for one of a function"),
    (edited(lambda g: g.node.add(op_type="", output=["o"])), "it has no operator"),
    (edited(foreign_operator), "attribute"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_no_model_is_refused_where_it_is_read(
    change: Callable[[onnx.ModelProto], onnx.ModelProto], message: str, tmp_path: Path
) -> None:
    path = save(change(plain((3, 4), size=4)), tmp_path / "m.onnx")
    with pytest.raises(NetadaptError) as caught:
        read(path)
    assert message in caught.value.message and str(path) in caught.value.message
    assert caught.value.code == "not-onnx"


def test_a_node_without_its_opset_is_refused(tmp_path: Path) -> None:
    proto = plain((3, 4), size=4)
    proto.opset_import[0].domain = "my.ops"
    with pytest.raises(NetadaptError, match="does not say which opset"):
        load(save(proto, tmp_path / "m.onnx"))


def test_nodes_of_functions_are_checked_once_their_attributes_have_values(tmp_path: Path) -> None:
    proto = plain((3, 4), size=4)
    axis = AttributeProto(name="axis", ref_attr_name="size", type=AttributeProto.INT)
    inner = helper.make_node("Flatten", ["a"], ["b"], "flat")
    inner.attribute.append(axis)
    imports = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("local", "Flat", ["a"], ["b"], [inner], imports, ["size"]))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.graph.node.append(helper.make_node("Flat", ["image"], ["flattened"], domain="local", size=1))
    require_valid(proto)
    load(save(proto, tmp_path / "m.onnx"))
    wrong = helper.make_model(helper.make_graph([helper.make_node("Flatten", [], ["b"])], "g", [], []))
    with pytest.raises(NetadaptError, match="input size 0"):
        require_valid_nodes(wrong)


@pytest.mark.parametrize("name", [name for name, _ in TensorProto.DataType.items() if name != "UNDEFINED"])
@pytest.mark.parametrize("shape", [(3, 5), (0, 2), ()])
@pytest.mark.parametrize("raw", [False, True])
def test_every_type_holds_what_its_shape_takes(name: str, shape: tuple[int, ...], raw: bool) -> None:
    code = TensorProto.DataType.Value(name)
    count = int(np.prod(shape))
    if name == "STRING":
        tensor = helper.make_tensor("t", code, shape, [b"a"] * count)
    elif raw:
        tensor = numpy_helper.from_array(np.ones(shape).astype(helper.tensor_dtype_to_np_dtype(code)), "t")
    else:
        tensor = helper.make_tensor("t", code, shape, [1] * count)
    check_tensor(tensor)
    tensor.dims.append(400)
    if count:
        with pytest.raises(NetadaptError, match="its shape"):
            check_tensor(tensor)


def test_descriptions_in_other_encodings_are_mended(tmp_path: Path) -> None:
    """Descriptions identify nothing: exporters wrote them in the encoding of their machine."""
    proto = plain((3, 4), size=4)
    proto.doc_string = proto.graph.node[0].doc_string = "described"
    path = save(no_text("described")(proto), tmp_path / "m.onnx")
    assert netadapt_onnx.prune(path, tmp_path / "o.onnx", ratio=0.5, check=True).verify is not None
    assert onnx.load(tmp_path / "o.onnx").doc_string.startswith("\ufffd")


def test_the_check_looks_at_no_weight_and_at_each_node_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []
    original = onnx.checker.check_node
    monkeypatch.setattr(
        onnx.checker, "check_node", lambda node, context: (checked.append(node.ByteSize()), original(node, context))
    )
    proto = plain((3, 4), size=4)
    value = helper.make_attribute("value", numpy_helper.from_array(np.ones(10_000, np.float32)))
    proto.graph.node.add(op_type="Constant", output=["c"]).attribute.append(value)
    require_valid(proto)
    assert len(checked) == len(proto.graph.node)
    assert max(checked) < 1000


LISTS = {"Reshape": [[1, 8, 64]], "Expand": [[1, 8, 8, 8]], "Tile": [[1] * 4], "Pad": [[0] * 8], "Slice": [[0], [1]]}


@pytest.mark.parametrize("op", LISTS)
def test_lists_that_are_no_vectors_are_refused_before_anything_runs(op: str, tmp_path: Path) -> None:
    b = Builder()
    lists = [b.constant(b.name("list"), np.array([values])) for values in LISTS[op]]
    b.node(op, [b.conv("x", 3, 8), *lists], "last", "y")
    graph = helper.make_graph(
        b.nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        b.initializers,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(NetadaptError, match="last"):
        netadapt_onnx.inspect(save(proto, tmp_path / "m.onnx"))
