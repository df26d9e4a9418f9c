"""Reconstruction is the same whether a file leaves its batch, height and width open or has them written into it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
from netadapt_onnx.graph.extract import between
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.reconstruct.gram import gram_matrices, original_targets
from netadapt_onnx.surgery.reconstruct.least_squares import reconstruct, reconstruct_in_order
from netadapt_onnx.surgery.trace import Trace
from tracing import trace_model

SIDE, IMAGES = 16, 20
Network = Callable[[], onnx.ModelProto]


def decoder() -> onnx.ModelProto:
    """A feature pyramid: parallel branches resized to the size of an earlier map, as F.interpolate(size=...) does."""
    b = models.Builder()
    skip = b.relu(b.conv("image", 3, 8))
    down = b.relu(b.conv(skip, 8, 8, stride=2))
    branches = [b.conv(b.relu(b.conv(b.relu(b.conv(down, 8, 8)), 8, 8)), 8, 8) for _ in range(3)]
    joined = b.node("Concat", branches, axis=1)
    x = b.node("Concat", [skip, b.node("Resize", [joined, "", "", sizes_of(b, joined, skip)])], axis=1)
    b.conv(b.relu(b.conv(x, 32, 12)), 12, 4, 1, name="mask")
    return b.model({"image": ("N", 3, SIDE, SIDE)}, {"mask_out": ("N", 4, SIDE, SIDE)})


def sizes_of(b: models.Builder, x: str, like: str) -> str:
    """Batch and channels of `x`, height and width of `like`."""
    return b.node("Concat", [part(b, x, 0, 2), part(b, like, 2, 4)], axis=0)


def part(b: models.Builder, x: str, start: int, end: int) -> str:
    bounds = [b.constant(b.name("at"), np.array([value], np.int64)) for value in (start, end)]
    return b.node("Slice", [b.node("Shape", [x]), *bounds])


def tokens() -> onnx.ModelProto:
    """Patches as tokens, mixed by MatMuls whose biases are Adds; the batch enters a Reshape and an Expand."""
    b = models.Builder()
    x = b.conv("image", 3, 12, 4, stride=4)
    rest = b.constant("rest", np.array([12, -1], np.int64))
    x = b.node("Reshape", [x, b.node("Concat", [part(b, "image", 0, 1), rest], axis=0)])
    x = b.node("Transpose", [x], perm=[0, 2, 1])
    target = b.node("Concat", [part(b, "image", 0, 1), b.constant("one", np.array([1, 12], np.int64))], axis=0)
    x = b.node("Concat", [b.node("Expand", [b.random("class", (1, 1, 12)), target]), x], axis=1)
    for i, (inputs, outputs) in enumerate([(12, 20), (20, 12), (12, 5)]):
        x = b.node("MatMul", [x, b.random(f"m{i}.weight", (inputs, outputs), inputs)], f"m{i}")
        x = b.relu(b.node("Add", [x, b.random(f"m{i}.bias", (outputs,))]))
    b.node("ReduceMean", [x], output="logits", axes=[1], keepdims=0)
    return b.model({"image": ("N", 3, SIDE, SIDE)}, {"logits": ("N", 5)})


def chosen() -> onnx.ModelProto:
    """A network with an If in the middle, whose branches are laid out flat in front of what follows."""
    b = models.Builder()
    x = b.relu(b.conv("image", 3, 8))
    condition = b.node("Greater", [b.node("ReduceMean", [x], keepdims=0), b.constant("zero", np.float32(0))])
    outer, subgraphs = (b.nodes, b.initializers), []
    for branch in ("then", "else"):
        b.nodes, b.initializers = [], []
        y = b.conv(b.relu(b.conv(x, 8, 6, name=f"{branch}_a")), 6, 8, name=f"{branch}_b")
        value = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
        subgraphs.append(helper.make_graph(b.nodes, branch, [], [value], b.initializers))
    b.nodes, b.initializers = outer
    b.nodes.append(helper.make_node("If", [condition], ["y"], "if", then_branch=subgraphs[0], else_branch=subgraphs[1]))
    x = b.relu(b.conv(b.relu(b.conv("y", 8, 12)), 12, 12, bias=False))
    b.head(x, 12)
    return b.model({"image": ("N", 3, SIDE, SIDE)}, {"logits": ("N", 10)})


CONVOLUTIONAL: dict[str, Network] = {
    "plain": models.plain,
    "residual": models.residual,
    "grouped": models.grouped,
    "concatenated": models.concatenated,
    "transposed": models.transposed,
    "resnet": models.resnet,
    "inverted residuals": models.inverted_residuals,
    "decoder": decoder,
}
NETWORKS: dict[str, Network] = {
    **CONVOLUTIONAL,
    "fully connected": lambda: models.fully_connected(size=SIDE),
    "vgg": models.vgg,
    "tokens": tokens,
    "chosen": chosen,
}


def declared(proto: onnx.ModelProto, batch: int | str, side: int | str) -> onnx.ModelProto:
    """A copy that declares these sizes of its image, and none of what follows from them."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for axis, size in ((0, batch), (2, side), (3, side)):
        dim = copy.graph.input[0].type.tensor_type.shape.dim[axis]
        dim.Clear()
        setattr(dim, "dim_value" if isinstance(size, int) else "dim_param", size)
    for value in copy.graph.output:
        for axis in range(len(value.type.tensor_type.shape.dim)):
            if axis != 1 or value.name == "mask_out":
                value.type.tensor_type.shape.dim[axis].Clear()
    return copy


def traced(proto: onnx.ModelProto) -> Trace:
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    return trace_model(proto, shapes={"image": (batch, 3, SIDE, SIDE)})


def images(count: int = IMAGES) -> Arrays:
    return {"image": np.random.default_rng(0).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)}


def solved(model_trace: Trace, samples: int = 32768, count: int = IMAGES) -> list[Arrays]:
    """The layers' weights after both ways of reconstruction, by name."""
    keep = select(model_trace, {g.name: max(g.floor, g.channels // 2 // g.step * g.step) for g in model_trace.prunable})
    targets = original_targets(model_trace, images(count), samples=samples)
    at_once = reconstruct(model_trace, keep, gram_matrices(model_trace, images(count), targets))
    in_order = reconstruct_in_order(model_trace, keep, images(count), targets)
    return [
        {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if "." in t.name}  # not what is folded
        for model in (at_once, in_order)
    ]


def assert_close(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name].shape == values.shape, name
        scale = max(float(np.abs(values).max(initial=0)), 1e-6)
        assert np.abs(ours[name] - values).max(initial=0) < 3e-3 * scale, name


def assert_alike(network: Network, batch: int | str, side: int | str) -> None:
    expected = solved(traced(declared(network(), 1, SIDE)))
    for ours, theirs in zip(solved(traced(declared(network(), batch, side))), expected, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_open_batch_changes_nothing(name: str) -> None:
    assert_alike(NETWORKS[name], "N", SIDE)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_open_sizes_change_nothing(name: str) -> None:
    assert_alike(CONVOLUTIONAL[name], "N", "S")


def test_open_sizes_alone_change_nothing() -> None:
    assert_alike(decoder, 1, "S")


@pytest.mark.parametrize("batch", ["N", 8])
def test_the_same_positions_of_the_same_images_are_drawn(batch: int | str) -> None:
    """However many images the file takes at once, and whatever the exporter has called its nodes."""

    def renamed() -> onnx.ModelProto:
        proto = models.concatenated()
        for i, node in enumerate(proto.graph.node):
            node.name = f"node_{i}"
        return proto

    expected = solved(traced(declared(models.concatenated(), 1, SIDE)), 72 * 10, 72)
    weights = solved(traced(declared(renamed(), batch, SIDE)), 72 * 10, 72)
    for ours, theirs in zip(weights, expected, strict=True):
        assert_close(ours, theirs)


def changed(cut: onnx.ModelProto, original: onnx.ModelProto) -> set[str]:
    before = {t.name: numpy_helper.to_array(t) for t in original.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in cut.graph.initializer if "." in t.name}
    return {name for name, values in after.items() if name not in before or not np.array_equal(values, before[name])}


@pytest.mark.parametrize(
    ("network", "side", "layers"),
    [(decoder, "S", {"conv3", "conv4"}), (chosen, SIDE, {"conv2", "conv3"})],
)
def test_only_the_layer_that_is_solved_gets_a_bias(network: Network, side: int | str, layers: set[str]) -> None:
    """Of the traced graph the nodes have other numbers: sizes are computed in front, subgraphs are laid out flat."""
    model_trace = traced(declared(network(), "N", side))
    first, second = sorted(layers)
    keep = {first: np.arange(model_trace.group(first).channels - 2)}
    targets = original_targets(model_trace, images())
    cut = reconstruct(model_trace, keep, gram_matrices(model_trace, images(), targets))
    names = changed(cut, model_trace.folded.proto)
    assert {name.split(".")[0] for name in names} == layers
    assert {name.removeprefix(f"{second}.") for name in names if name.startswith(second)} & {"bias", "weight/bias"}


def test_a_part_of_a_graph_declares_what_does_not_change_with_the_batch() -> None:
    proto = decoder()
    resized = next(node for node in proto.graph.node if node.op_type == "Resize")
    joined, sizes = resized.input[0], resized.input[3]
    inputs_by_batch = {
        n: {joined: np.zeros((n, 24, 8, 8), np.float32), sizes: np.array([n, 24, 16, 16])} for n in (1, 4)
    }
    part_ = between(proto, inputs_by_batch[4], [resized.output[0]], inputs_by_batch[1])
    dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in part_.graph.input}
    assert dims == {joined: [0, 24, 8, 8], sizes: [4]}
