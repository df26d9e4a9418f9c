"""Files are checked once, after parsing: what no runtime takes is refused in one line, what ONNX allows works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import netadapt_onnx
from models import Builder, plain
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.model import load
from netadapt_onnx.onnx_file import read
from netadapt_onnx.validity import check_tensor, require_valid, require_valid_nodes

NO_TEXT = b"\x8e\xff"


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


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
    (edited(lambda g: g.node.add(op_type="", output=["o"])), "it has no operator"),
    (edited(foreign_operator), "attribute"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_is_no_model_is_refused_where_it_is_read(
    change: Callable[[onnx.ModelProto], onnx.ModelProto], said: str, tmp_path: Path
) -> None:
    path = saved(change(plain((3, 4), size=4)), tmp_path / "m.onnx")
    with pytest.raises(NetadaptError) as caught:
        read(path)
    assert said in caught.value.message and str(path) in caught.value.message
    assert caught.value.code == "not-onnx"


def test_a_node_without_its_opset_is_refused(tmp_path: Path) -> None:
    proto = plain((3, 4), size=4)
    proto.opset_import[0].domain = "my.ops"
    with pytest.raises(NetadaptError, match="does not say which opset"):
        load(saved(proto, tmp_path / "m.onnx"))


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
    load(saved(proto, tmp_path / "m.onnx"))
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
    path = saved(no_text("described")(proto), tmp_path / "m.onnx")
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


# -- what ONNX allows -------------------------------------------------------------------------------------------------


def convolutions(inputs: list[str] | None = None, *, ir_version: int = 8) -> onnx.ModelProto:
    """Two convolutions with a Relu between them, and `inputs` among the inputs that the file lists."""
    b = Builder()
    b.conv(b.relu(b.conv("x", 3, 8)), 8, 4)
    proto = b.model({"x": (1, 3, 8, 8)}, {"conv2_out": (1, 4, 8, 8)})
    shapes = {tensor.name: list(tensor.dims) for tensor in b.initializers}
    for name in inputs or []:
        proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]))
    proto.ir_version = ir_version
    return proto


def with_outputs(proto: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    shapes = {t.name: list(t.dims) for t in proto.graph.initializer} | {"x": [1, 3, 8, 8]}
    for name in names:
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes.get(name)))
    return proto


def returned_first() -> onnx.ModelProto:
    proto = with_outputs(convolutions(), "conv2.weight")
    proto.graph.output.reverse()
    return proto


def returned_constant() -> onnx.ModelProto:
    proto = with_outputs(convolutions(), "k")
    proto.graph.node.add(op_type="Constant", output=["k"]).attribute.append(helper.make_attribute("value_ints", [3, 4]))
    proto.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def returned_through_identity() -> onnx.ModelProto:
    proto = with_outputs(convolutions(), "k")
    proto.graph.node.append(helper.make_node("Identity", ["conv2.weight"], ["k"]))
    return proto


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


def unread_weight() -> onnx.ModelProto:
    proto = convolutions()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((40, 40), np.float32), "unread"))
    return proto


def empty_weight() -> onnx.ModelProto:
    proto = convolutions()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((0, 1 << 20), np.float32), "empty"))
    return proto


def unread_input() -> onnx.ModelProto:
    proto = convolutions()
    proto.graph.input.append(helper.make_tensor_value_info("unread", TensorProto.FLOAT, [1, 5]))
    return proto


def nameless_graph() -> onnx.ModelProto:
    proto = convolutions()
    proto.graph.name = ""
    return proto


def unsorted() -> onnx.ModelProto:
    proto = convolutions()
    proto.graph.node.reverse()
    return proto


ALLOWED: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer is an output": lambda: with_outputs(convolutions(), "conv2.weight"),
    "initializer is the first output": returned_first,
    "bias is an output": lambda: with_outputs(convolutions(), "conv1.bias"),
    "initializer is an input and an output": lambda: with_outputs(convolutions(["conv1.weight"]), "conv1.weight"),
    "initializers are inputs": lambda: convolutions(["conv1.weight", "conv2.weight"]),
    "initializers are inputs, as they have to be in IR 3": lambda: convolutions(
        ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"], ir_version=3
    ),
    "input is an output": lambda: with_outputs(convolutions(), "x"),
    "everything is an output": lambda: with_outputs(convolutions(), "x", "conv1.weight", "conv2.weight", "conv1.bias"),
    "constant is an output": returned_constant,
    "initializer is an output through Identity": returned_through_identity,
    "output twice": lambda: with_outputs(convolutions(), "conv2_out"),
    "weight that nothing reads": unread_weight,
    "empty weight": empty_weight,
    "input that nothing reads": unread_input,
    "graph without a name": nameless_graph,
    "nodes in any order": unsorted,
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_onnx_allows_is_cut_and_keeps_its_outputs(name: str, tmp_path: Path) -> None:
    proto = ALLOWED[name]()
    path = saved(proto, tmp_path / "m.onnx")
    assert netadapt_onnx.inspect(path).groups[0].prunable
    cut = netadapt_onnx.prune(path, tmp_path / "o.onnx", ratio=0.5, check=True)
    assert cut.verify is not None and cut.verify.exact and cut.groups == {"conv1": (8, 4)}
    outputs = [outputs_of(file) for file in (path, tmp_path / "o.onnx")]
    assert [list(side) for side in outputs] == [list(dict.fromkeys(value.name for value in proto.graph.output))] * 2
    for key, before in outputs[0].items():
        assert outputs[1][key].shape == before.shape
        if key != "conv2_out":  # constants and inputs are what they were
            np.testing.assert_array_equal(outputs[1][key], before)


def outputs_of(path: Path) -> dict[str, np.ndarray]:
    """What a model puts out for an input of ones."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {value.name: np.ones(value.shape, np.float32) for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("name", ["initializer is an output", "input is an output", "input that nothing reads"])
def test_every_command_takes_them(name: str, tmp_path: Path) -> None:
    path = saved(ALLOWED[name](), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    inputs = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in onnx.load(path).graph.input
    }
    arrays = {
        f"x_{split}.{key}": rng.standard_normal((8, *shape[1:])).astype(np.float32)
        for split in ("train", "val")
        for key, shape in inputs.items()
    }
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]  # numpy's stubs take `allow_pickle` for one
    assert netadapt_onnx.diff(path, path).layers == ()
    assert netadapt_onnx.evaluate(path, tmp_path / "d.npz").models[0].accuracy == 1
    assert netadapt_onnx.gate(path, max={"size": "1MB"}).ok


def test_a_model_without_inputs_or_outputs_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    proto = convolutions()
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((1, 3, 8, 8), np.float32), "x"))
    del proto.graph.input[:]
    path = saved(proto, tmp_path / "m.onnx")
    assert netadapt_onnx.inspect(path).groups == ()
    np.savez(tmp_path / "d.npz", x_val=np.ones(3))
    with pytest.raises(NetadaptError, match="the model has no inputs"):
        netadapt_onnx.evaluate(path, tmp_path / "d.npz")
    del proto.graph.output[:]
    with pytest.raises(NetadaptError, match="has no outputs"):
        load(saved(proto, tmp_path / "m.onnx"))


# -- views of weights that several places read ------------------------------------------------------------------------


def test_a_view_that_is_an_output_is_not_cut(tmp_path: Path) -> None:
    path = saved(returned_view(), tmp_path / "m.onnx")
    group = netadapt_onnx.inspect(path).groups[0]
    assert not group.prunable and "shared with a node that does not cut it" in str(group.reason)


def test_a_view_that_something_else_reads_is_not_cut(tmp_path: Path) -> None:
    proto = transposed_weight()
    proto.graph.input.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, [1, 32]))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 5]))
    proto.graph.node.append(helper.make_node("MatMul", ["u", "turned"], ["z"], "other"))
    assert not netadapt_onnx.inspect(saved(proto, tmp_path / "m.onnx")).groups[0].prunable


def test_two_layers_that_read_one_view_are_cut_together(tmp_path: Path) -> None:
    b = Builder()
    b.node("Transpose", [b.random("weight", (5, 32))], output="turned", perm=[1, 0])
    for name in ("y", "z"):
        b.node("MatMul", [b.relu(b.fc("x", 6, 32)), "turned"], output=name)
    path = saved(b.model({"x": (1, 6)}, {"y": (1, 5), "z": (1, 5)}), tmp_path / "m.onnx")
    cut = netadapt_onnx.prune(path, tmp_path / "o.onnx", ratio=0.5, check=True)
    assert cut.verify is not None and cut.verify.exact and cut.groups == {"fc1": (32, 16)}
    assert {tuple(t.dims) for t in onnx.load(tmp_path / "o.onnx").graph.initializer if t.name.endswith("weight")} == {
        (16, 6),
        (5, 16),
    }


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
        netadapt_onnx.inspect(saved(proto, tmp_path / "m.onnx"))
