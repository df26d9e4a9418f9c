"""Groups, cuts and their proof on whole models."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import check, load
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.criteria.selection import importance, select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model


def share(traced: Trace, ratio: float) -> dict[str, int]:
    """What `prune --ratio` keeps of each group."""
    return {
        g.name: max(g.floor, g.step * int(np.ceil((1 - ratio) * g.channels / g.step - 1e-9))) for g in traced.prunable
    }


def weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


@pytest.mark.parametrize("name", sorted(models.ALL))
@pytest.mark.parametrize("criterion", ["l2", "l1", "random", "first"])
@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_pruning_equals_masking_on_whole_models(name: str, criterion: str, ratio: float) -> None:
    traced = trace_model(models.ALL[name]())
    keep = select(traced, share(traced, ratio), criterion)
    pruned = resize(traced, keep)
    result = verify(traced, keep, pruned=pruned)
    assert result.exact, result
    assert result.moves or ratio > 0.5  # with most channels gone some of these nets are dead
    assert pruned.ByteSize() < traced.folded.proto.ByteSize()


@pytest.mark.parametrize("name", sorted(models.ALL))
def test_predicted_shapes_are_the_shapes_of_the_cut_model(name: str) -> None:
    traced = trace_model(models.ALL[name]())
    keep = select(traced, share(traced, 0.5))
    assert traced.resized_shapes(keep) == dict(fold(resize(traced, keep)).shapes)


@pytest.mark.parametrize("name", sorted(models.ALL))
def test_names_inputs_outputs_and_opset_are_the_originals(name: str) -> None:
    proto = models.ALL[name]()
    proto.metadata_props.add(key="licence", value="MIT")
    traced = trace_model(proto)
    pruned = resize(traced, select(traced, share(traced, 0.5)))
    check(pruned)
    onnx.checker.check_model(pruned, full_check=True)
    for field in ("input", "output"):
        assert list(getattr(pruned.graph, field)) == list(getattr(proto.graph, field))
    assert [n.name for n in pruned.graph.node] == [n.name for n in traced.folded.proto.graph.node]
    assert list(pruned.opset_import) == list(proto.opset_import)
    assert pruned.metadata_props == proto.metadata_props


def test_a_residual_stream_is_one_group_and_inner_channels_are_free() -> None:
    traced = trace_model(models.residual(16))
    groups = {g.name: g for g in traced.groups}
    assert set(groups) == {"conv1", "conv2", "conv4", "fc1"}
    assert groups["conv1"].layers == ("conv1", "conv3", "conv5")
    assert groups["conv2"].layers == ("conv2",)
    assert not groups["fc1"].prunable
    assert groups["fc1"].reason == "reaches graph output 'logits'"


def test_a_grouped_conv_sets_the_step() -> None:
    traced = trace_model(models.grouped(16, groups=4))
    groups = {g.name: g for g in traced.groups}
    assert (groups["conv1"].step, groups["conv3"].step, groups["conv4"].step) == (1, 4, 4)
    assert groups["conv1"].layers == ("conv1", "conv2")  # the depthwise conv follows its producer


def test_a_flattened_map_loses_all_columns_of_a_channel() -> None:
    traced = trace_model(models.fully_connected(8, size=8))
    pruned = weights(resize(traced, {"conv2": np.arange(0, 16, 2)}))
    original = weights(traced.folded.proto)["fc1.weight"].reshape(-1, 16, 16)
    np.testing.assert_array_equal(pruned["fc1.weight"], original[:, ::2].reshape(-1, 8 * 16))


def test_a_cut_keeps_exactly_the_chosen_filters() -> None:
    traced = trace_model(models.plain((8, 8)))
    before = weights(traced.folded.proto)
    after = weights(resize(traced, {"conv1": np.array([1, 4, 6])}))
    np.testing.assert_array_equal(after["conv1.weight"], before["conv1.weight"][[1, 4, 6]])
    np.testing.assert_array_equal(after["bn1.var"], before["bn1.var"][[1, 4, 6]])
    np.testing.assert_array_equal(after["conv2.weight"], before["conv2.weight"][:, [1, 4, 6]])


def test_importance_is_the_norm_of_the_producers_slices() -> None:
    traced = trace_model(models.residual(8))
    w = weights(traced.folded.proto)
    expected = np.sqrt(sum((w[f"conv{i}.weight"] ** 2).reshape(8, -1).sum(axis=1) for i in (1, 3, 5)))
    np.testing.assert_allclose(importance(traced)["conv1"], expected, rtol=1e-6)
    kept = select(traced, {"conv1": 3})["conv1"]
    np.testing.assert_array_equal(kept, np.sort(np.argsort(-expected)[:3]))


def test_a_criterion_may_be_the_callers_own() -> None:
    traced = trace_model(models.plain((8, 8)))
    assert select(traced, {"conv1": 2}, lambda _, group: np.arange(group.channels))["conv1"].tolist() == [6, 7]
    with pytest.raises(NetadaptError, match=r"shape \(3,\) for group 'conv1'; expected \(8,\)"):
        select(traced, {"conv1": 2}, lambda *_: np.zeros(3))


def test_an_op_without_a_rule_pins_with_its_reason() -> None:
    b = models.Builder()
    x = b.conv("image", 3, 8)
    b.nodes.append(helper.make_node("NonZero", [x], ["where"], name="where"))
    b.node("Cast", ["where"], to=TensorProto.FLOAT, output="found")
    b.conv(b.conv(x, 8, 6), 6, 4)
    traced = trace_model(b.model({"image": (1, 3, 8, 8)}, {"found": (4, "n"), "conv3_out": (1, 4, 8, 8)}))
    groups = {g.name: g for g in traced.groups}
    assert groups["conv1"].reason == "no rule for NonZero ('where')"
    assert groups["conv2"].prunable  # the rest still prunes


def test_shared_weights_are_cut_together_and_shared_vectors_apart() -> None:
    b = models.Builder()
    bias = b.random("shared.bias", (8,))
    shared = b.random("shared.weight", (8, 8, 1, 1), 8)
    x = b.node("Conv", ["image", b.random("first.weight", (8, 3, 1, 1), 3), bias], "first")
    x = b.node("Conv", [b.relu(x), shared, bias], "second")
    x = b.node("Conv", [b.relu(x), shared], "third")
    x = b.node("Conv", [b.relu(x), b.random("fourth.weight", (8, 8, 1, 1), 8), bias], "fourth")
    b.conv(b.relu(x), 8, 4, name="last")
    traced = trace_model(b.model({"image": (1, 3, 8, 8)}, {"last_out": (1, 4, 8, 8)}))
    assert {g.name: g.layers for g in traced.prunable} == {
        "first": ("first", "second", "third"),
        "fourth": ("fourth",),
    }
    keep = {"first": np.array([0, 2, 5]), "fourth": np.array([1, 7])}
    pruned = resize(traced, keep)
    assert verify(traced, keep, pruned=pruned).exact
    shapes = {name: value.shape for name, value in weights(pruned).items()}
    assert shapes["shared.weight"] == (3, 3, 1, 1)
    assert sorted(s for name, s in shapes.items() if name.startswith("shared.bias")) == [(2,), (3,)]


def test_padded_shortcuts_leave_separate_groups_on_one_axis() -> None:
    """ResNet's option A: stage 1's channels go on through stage 2, which adds some of its own."""
    b = models.Builder()
    x = b.conv_bn_relu("image", 3, 8)
    short = b.node("Pad", [x, b.constant("pads", np.array([0, 2, 0, 0, 0, 2, 0, 0]))])
    x = b.relu(b.node("Add", [b.conv(x, 8, 12), short]))
    b.head(x, 12)
    traced = trace_model(b.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 10)}))
    sizes = {g.name: (g.channels, g.layers) for g in traced.prunable}
    assert sizes == {"conv1": (8, ("conv1", "conv2")), "conv2": (4, ("conv2",))}
    keep = {"conv1": np.array([0, 7]), "conv2": np.array([3])}
    assert verify(traced, keep).exact
    pads = weights(resize(traced, keep))["pads"]
    assert pads.tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


def test_attention_heads_go_whole() -> None:
    """Heads x dimensions: contracted over the dimension, so heads are kept or removed as one."""
    heads, dim, tokens, width = 3, 4, 5, 12
    b = models.Builder()
    project = [b.node("MatMul", ["x", b.random(f"{n}.weight", (width, width), width)], n) for n in ("q", "k", "v")]
    shape = b.constant("split", np.array([0, 0, heads, dim]))
    q, k, v = (b.node("Transpose", [b.node("Reshape", [t, shape])], perm=[0, 2, 1, 3]) for t in project)
    scores = b.node("MatMul", [q, b.node("Transpose", [k], perm=[0, 1, 3, 2])])
    scores = b.node("Softmax", [b.node("Mul", [scores, b.constant("scale", np.float32(dim**-0.5))])], axis=-1)
    mixed = b.node("Transpose", [b.node("MatMul", [scores, v])], perm=[0, 2, 1, 3])
    flat = b.node("Reshape", [mixed, b.constant("join", np.array([0, 0, width]))])
    b.node("MatMul", [flat, b.random("o.weight", (width, width), width)], "o")
    traced = trace_model(b.model({"x": (2, tokens, width)}, {"o_out": (2, tokens, width)}))
    (group,) = traced.prunable
    assert (group.name, group.channels, group.step, group.layers) == ("q", 12, 4, ("q", "k", "v"))
    keep = select(traced, {"q": 8})
    assert verify(traced, keep).exact
    assert weights(resize(traced, keep))["scale"] == np.float32(dim**-0.5)
    with pytest.raises(NetadaptError, match="whole steps of 4"):
        resize(traced, {"q": np.arange(6)})


def test_heads_that_meet_a_plain_dimension_fix_it() -> None:
    """q (heads, dimension) times k (dimension): whole heads of q may go, so no dimension of k may."""
    b = models.Builder()
    q = b.node("MatMul", ["x", b.random("q.weight", (12, 12), 12)], "q")
    q = b.node("Transpose", [b.node("Reshape", [q, b.constant("split", np.array([0, 0, 3, 4]))])], perm=[0, 2, 1, 3])
    k = b.node("MatMul", ["x", b.random("k.weight", (12, 4), 12)], "k")
    k = b.node("Unsqueeze", [b.node("Transpose", [k], perm=[0, 2, 1]), b.constant("axis", np.array([1]))])
    mixed = b.node("Transpose", [b.node("MatMul", [q, k])], perm=[0, 2, 1, 3])
    flat = b.node("Reshape", [mixed, b.constant("join", np.array([0, 0, 15]))])
    b.node("MatMul", [flat, b.random("o.weight", (15, 6), 15)], "o")
    traced = trace_model(b.model({"x": (1, 5, 12)}, {"o_out": (1, 5, 6)}))
    groups = {g.name: g for g in traced.groups}
    assert (groups["q"].prunable, groups["q"].step) == (True, 4)
    assert "contracts it with" in (groups["k"].reason or "")
    assert verify(traced, select(traced, {"q": 8})).exact


def test_channels_shuffled_with_unlabelled_ones_are_pinned() -> None:
    """What must stay a rectangle with positions that no layer made cannot go; tracing ends all the same."""
    b = models.Builder()
    x = b.node("Concat", [b.conv("image", 3, 3, 1), "image"], axis=1)
    x = b.node("Reshape", [x, b.constant("split", np.array([0, 2, 3, 8, 8]))])
    x = b.node("Transpose", [b.relu(x)], perm=[0, 2, 1, 3, 4])  # no plain shuffle, which would be a Gather
    x = b.node("Reshape", [x, b.constant("join", np.array([0, 6, 8, 8]))])
    b.head(b.conv(x, 6, 8), 8)
    traced = trace_model(b.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 10)}))
    assert {g.name: g.prunable for g in traced.groups} == {"conv1": False, "conv2": True, "fc1": False}
    assert verify(traced, {"conv2": np.array([1, 6])}).exact


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"conv9": [0]}, "no group 'conv9'.*did you mean conv"),
        ({"conv1": [0, 16]}, r"channels 0\.\.15"),
        ({"conv1": []}, "keeps at least 1 of 16"),
        ({"fc1": [0, 1]}, "cannot be pruned: reaches graph output"),
    ],
)
def test_a_cut_that_cannot_be_made_says_why(keep: dict[str, list[int]], message: str) -> None:
    traced = trace_model(models.plain())
    with pytest.raises(NetadaptError, match=message):
        resize(traced, {k: np.array(v, np.int64) for k, v in keep.items()})


def test_a_dynamic_batch_stays_dynamic_after_a_cut() -> None:
    traced = trace_model(models.plain((8, 12)))
    pruned = resize(traced, select(traced, share(traced, 0.5)))
    active = session(pruned)
    for n in (1, 3):
        inputs = random_inputs({"image": ((n, 3, 16, 16), np.dtype(np.float32))})
        assert run(active, inputs)["logits"].shape == (n, 10)


@pytest.mark.parametrize(
    "file",
    [
        "resnet20_cifar10",
        "resnet20_cifar10_folded",
        "qonnx_mnist_conv",
        "ultraface_rfb320_simplified",
        "ultraface_slim320",
        "minifasnet_v2",
        "espcn_subpixel_float",
        "fastestdet",
    ],
)
@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_real_models_are_cut_exactly(real_models, file: str, ratio: float) -> None:  # type: ignore[no-untyped-def]
    traced = trace(fold(load(real_models / f"{file}.onnx").proto))
    result = verify(traced, select(traced, share(traced, ratio)))
    assert result.exact, result
