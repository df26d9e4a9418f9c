"""Convolutions in groups keep equal counts in every group, of channels that may differ from group to group."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.conv_group_metadata import KEY
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.criteria.weights import group_l2, l2
from netadapt_onnx.surgery.kept_counts import at_ratio
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model

SIZE = 8


def shuffled(b: models.Builder, x: str, channels: int, groups: int, size: int) -> str:
    split = b.constant(b.name("split"), np.array([0, groups, channels // groups, size, size]))
    x = b.node("Transpose", [b.node("Reshape", [x, split])], perm=[0, 2, 1, 3, 4])
    return b.node("Reshape", [x, b.constant(b.name("join"), np.array([0, channels, size, size]))])


def bottleneck(groups: int, channels: int, *, first_in_groups: bool = True) -> onnx.ModelProto:
    """Two convolutions in groups with a shuffle and a depthwise one between them."""
    b = models.Builder(seed=groups)
    x = b.conv("image", 3, channels, 1)
    x = b.relu(b.conv(x, channels, channels, 1, group=groups if first_in_groups else 1, name="into"))
    x = shuffled(b, x, channels, groups, SIZE)
    x = b.conv(x, channels, channels, group=channels, name="depthwise")
    x = b.relu(b.conv(x, channels, channels, 1, group=groups, name="out_of"))
    b.head(x, channels)
    return b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)})


def shufflenet_v1(groups: int, stem: int, widths: tuple[int, ...], repeats: int) -> onnx.ModelProto:
    """ShuffleNet (Zhang et al., CVPR 2018): a stage's first unit concatenates its pooled input."""
    b = models.Builder(seed=1)
    x, channels, size = b.relu(b.batchnorm(b.conv("image", 3, stem), stem)), stem, SIZE
    for stage, width in enumerate(widths):
        for unit in range(repeats):
            mid, stride = width // 4, 2 if unit == 0 else 1
            own = width - channels if unit == 0 else width
            first = 1 if stage == unit == 0 else groups  # as in the paper: too few channels there
            y = b.relu(b.batchnorm(b.conv(x, channels, mid, 1, group=first), mid))
            y = shuffled(b, y, mid, groups, size)
            y = b.batchnorm(b.conv(y, mid, mid, group=mid, stride=stride), mid)
            y = b.batchnorm(b.conv(y, mid, own, 1, group=groups), own)
            if unit == 0:
                kernel = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "count_include_pad": 1}
                pooled = b.node("AveragePool", [x], **kernel)
                x, size = b.relu(b.node("Concat", [pooled, y], axis=1)), size // 2
            else:
                x = b.relu(b.node("Add", [x, y]))
            channels = width
    b.head(x, channels)
    return b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)})


@pytest.mark.parametrize("groups", [2, 3, 4])
@pytest.mark.parametrize("first_in_groups", [True, False])
def test_channels_between_two_convolutions_in_groups_go_in_steps_of_one_a_group(
    groups: int, first_in_groups: bool
) -> None:
    channels = groups * (2 * groups + 3)
    traced = trace_model(bottleneck(groups, channels, first_in_groups=first_in_groups))
    group = traced.group("into")
    assert group.prunable and (group.channels, group.step) == (channels, groups)
    rng = np.random.default_rng(0)
    for count in range(groups, channels, groups):
        keep = select(traced, {"into": count}, lambda _, group: rng.random(group.channels))
        result = verify(traced, keep)
        assert result.exact, (count, result)
        mask = np.isin(np.arange(channels), keep["into"]).reshape(groups, -1)
        assert set(mask.sum(axis=1).tolist()) == {count // groups} or not first_in_groups


@pytest.mark.parametrize(("groups", "channels"), [(4, 8), (4, 16), (8, 24)])
def test_narrow_groups_that_a_shuffle_ties_keep_equal_counts(groups: int, channels: int) -> None:
    """They would go whole, as ResNeXt's, but every one would take all others with it."""
    traced = trace_model(bottleneck(groups, channels))
    assert all(group.prunable and group.step == groups for group in traced.groups if "fc" not in group.name)
    keep = select(traced, at_ratio(traced.prunable, 0.5), "random")
    assert verify(traced, keep).exact
    again = trace_model(resize(traced, keep))
    assert [(g.name, g.channels, g.step) for g in again.prunable if g.channels > groups] == [
        (g.name, len(keep[g.name]), g.step) for g in traced.prunable if len(keep[g.name]) > groups
    ]


def test_narrow_groups_before_an_output_keep_equal_counts_of_what_they_read() -> None:
    b = models.Builder()
    y = b.conv(b.relu(b.conv("image", 3, 16, 1)), 16, 8, 1, group=4, bias=True)
    traced = trace_model(b.model({"image": ("N", 3, SIZE, SIZE)}, {y: ("N", 8, SIZE, SIZE)}))
    assert traced.group("conv1").prunable and traced.group("conv1").step == 4
    assert verify(traced, select(traced, {"conv1": 8})).exact


def test_other_indices_are_kept_in_other_groups() -> None:
    traced = trace_model(bottleneck(3, 27))
    keep = select(traced, {"into": 9}, "random")
    mask = np.isin(np.arange(27), keep["into"]).reshape(3, 9)
    assert not (mask == mask[0]).all()


def test_where_nothing_shuffles_the_same_index_is_kept_in_every_group() -> None:
    """As RegNet's groups: their channels come from a plain convolution and go to one."""
    b = models.Builder()
    x = b.conv(b.conv("image", 3, 12, 1), 12, 12, group=3)
    b.head(b.conv(x, 12, 8, 1), 8)
    traced = trace_model(b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)}))
    for name in ("conv1", "conv2"):
        index = traced.members[name].reshape(3, 4)
        assert (index == index[0]).all() and len(np.unique(index)) == 4


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_a_shufflenet_of_the_first_version_is_cut_by_what_is_asked(groups: int, ratio: float) -> None:
    traced = trace_model(shufflenet_v1(groups, stem=12, widths=(48, 96), repeats=3))
    keep = select(traced, at_ratio(traced.prunable, ratio), "random")
    pruned = resize(traced, keep)
    assert verify(traced, keep, pruned=pruned).exact
    before, after = (
        cost(traced.flat.proto, shapes).macs for shapes in (traced.flat.shapes, traced.resized_shapes(keep))
    )
    assert after / before < (1 - ratio) * 1.05
    assert all(group.prunable for group in traced.groups if "fc" not in group.name)


def test_scores_of_a_channel_are_those_of_its_own_slices() -> None:
    """Of its column in the one conv group that reads it, and not of the same index in all of them."""
    traced = trace_model(bottleneck(2, 12))
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in traced.flat.proto.graph.initializer}
    bundles = traced.members["into"]
    order = np.arange(12).reshape(2, 6).T.reshape(-1)  # where the shuffle takes each position from
    produced = (weights["into.weight"] ** 2).sum(axis=(1, 2, 3))
    produced[order] += (weights["depthwise.weight"] ** 2).sum(axis=(1, 2, 3))
    read = np.zeros(12)
    for position, channel in enumerate(order):
        block, column = divmod(position, 6)
        read[channel] = (weights["out_of.weight"].reshape(2, 6, 6)[block, :, column] ** 2).sum()
    for score, expected in ((l2, produced), (group_l2, produced + read)):
        sums = [expected[bundles == n].sum() for n in bundles]
        np.testing.assert_allclose(score(traced, traced.group("into")) ** 2, sums, rtol=1e-5)


def test_channels_that_are_added_stand_in_their_own_conv_group() -> None:
    """With zeros for what reads them, the wider model computes what the original does."""
    traced = trace_model(bottleneck(3, 27))
    keep = select(traced, {"into": 33}, "l2")
    wide = resize(traced, keep)
    last = next(node for node in wide.graph.node if node.name == "out_of")
    _, copies = traced.cut(keep).layout(last.input[0], 1)
    tensor = next(t for t in wide.graph.initializer if t.name == last.input[1])
    weights = onnx.numpy_helper.to_array(tensor).copy()
    assert weights.shape == (27, 11, 1, 1) and (copies > 0).sum() == 6
    for block, new in enumerate(copies.reshape(3, 11) > 0):
        weights[block * 9 : block * 9 + 9, new] = 0
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    inputs = random_inputs(traced.folded.specs)
    expected, got = (run(session(m), inputs, ["logits"])["logits"] for m in (traced.folded.proto, wide))
    np.testing.assert_allclose(got, expected, atol=1e-5 * expected.std())


def random_network(seed: int) -> onnx.ModelProto:
    """Convolutions in 1 to 4 groups, shuffles, concatenations (with an input too), sums, outputs in the middle."""
    rng, b = np.random.default_rng(seed), models.Builder(seed)
    x, channels = b.conv("image", 3, 12, 1), 12
    outputs: dict[str, tuple[int, ...]] = {}
    for kind in rng.choice(7, size=int(rng.integers(3, 8)), p=[0.3, 0.2, 0.15, 0.15, 0.1, 0.05, 0.05]):
        groups = int(rng.integers(1, 5))
        if kind == 0:
            wider = 12 * int(rng.integers(1, 4))
            x, channels = b.conv(x, channels, wider, 1, group=groups), wider
        elif kind == 1 and groups > 1:
            x = shuffled(b, x, channels, groups, SIZE)
        elif kind == 2:
            parts = [x, b.conv(x, channels, 12, 1, group=groups)]
            x, channels = b.node("Concat", parts[:: int(rng.choice([1, -1]))], axis=1), channels + 12
        elif kind == 3:
            x = b.node("Add", [x, b.conv(b.relu(x), channels, channels, 1, group=groups)])
        elif kind == 4:
            x = b.relu(b.batchnorm(b.conv(x, channels, channels, group=channels), channels))
        elif kind == 5:
            x, channels = b.node("Concat", [x, "extra"], axis=1), channels + 12
        else:
            outputs[x] = (1, channels, SIZE, SIZE)
    b.head(x, channels)
    inputs = {"image": (1, 3, SIZE, SIZE), "extra": (1, 12, SIZE, SIZE)}
    return b.model(inputs, outputs | {"logits": (1, 10)})


def cut_and_traced_again(traced: Trace, seed: int) -> tuple[dict[str, np.ndarray], Trace]:
    rng = np.random.default_rng(seed)
    counts = {g.name: g.step * int(rng.integers(1, g.channels // g.step + 1)) for g in traced.prunable}
    keep = select(traced, counts, "random")
    return keep, trace_model(resize(traced, keep))


def assert_same_groups(traced: Trace, keep: dict[str, np.ndarray], again: Trace) -> None:
    """What is left of every group above its floor goes in the same steps as before."""
    groups = {g.name: (g.channels, g.step) for g in again.groups}
    for group in traced.prunable:
        remaining = len(keep.get(group.name, range(group.channels)))
        if remaining > group.floor:
            assert groups[group.name] == (remaining, group.step)


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        *(("bottleneck", n) for n in range(3)),
        *(("shufflenet", n) for n in range(4)),
        *(("random", n) for n in (0, 2, 3, 9)),
    ],
)
def test_a_cut_model_has_the_groups_that_are_left(kind: str, seed: int) -> None:
    """A search cuts what it has cut before, and composes the cuts: the same channels must belong together."""
    if kind == "bottleneck":
        traced = trace_model(bottleneck(2 + seed % 3, 36))
    elif kind == "shufflenet":
        traced = trace_model(shufflenet_v1(2 + seed % 2, stem=12, widths=(48, 96), repeats=2))
    else:
        traced = trace_model(random_network(seed))
    assert traced.runs is not traced.roots  # bundles were needed
    keep, again = cut_and_traced_again(traced, seed)
    assert_same_groups(traced, keep, again)
    twice, last = cut_and_traced_again(again, seed + 1)
    assert_same_groups(again, twice, last)
    assert verify(again, twice).exact
    composed = {
        g.name: keep.get(g.name, np.arange(g.channels))[twice.get(g.name, slice(None))]
        for g in traced.prunable
        if g.name in keep or g.name in twice
    }
    traced.copies(composed)  # raises for what is no cut of the original


def test_nothing_is_added_to_metadata_where_the_same_index_does() -> None:
    b = models.Builder()
    b.head(b.conv(b.conv(b.conv("image", 3, 24, 1), 24, 24, group=2), 24, 8, 1), 8)
    traced = trace_model(b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)}))
    assert not resize(traced, select(traced, {"conv1": 12, "conv2": 12})).metadata_props


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"ties": 3}', '{"ties": {"into": [1e400]}}', '{"ties": {"into": [-1]}, "even": 7}', "[" * 9999],
)
def test_metadata_that_make_no_sense_are_left_aside(text: str) -> None:
    proto = bottleneck(3, 27)
    proto.metadata_props.add(key=KEY, value=text)
    traced = trace_model(proto)
    assert (traced.group("into").channels, traced.group("into").step) == (27, 3)


def test_metadata_that_name_other_convolutions_only_make_cuts_coarser() -> None:
    proto = bottleneck(3, 27)
    odd = {"ties": {"into": [1] * 20 + [2] * 7}, "even": ["depthwise"], "whole": ["out_of", "nothing"]}
    proto.metadata_props.add(key=KEY, value=json.dumps(odd))
    traced = trace_model(proto)
    for seed in range(3):
        counts = {g.name: g.step * (1 + seed % (g.channels // g.step)) for g in traced.prunable}
        assert verify(traced, select(traced, counts, "random")).exact


@pytest.mark.parametrize("seed", range(16))
def test_equal_counts_hold_whatever_meets_the_groups(seed: int) -> None:
    traced = trace_model(random_network(seed))
    for table, reason in traced.labels.balances:
        for root in np.unique(traced.roots[table]):
            assert traced.pinned[root] or root == 0 or len(set((traced.roots[table] == root).sum(axis=1))) == 1, reason
    rng = np.random.default_rng(seed)
    counts = {g.name: g.step * int(rng.integers(1, g.channels // g.step + 1)) for g in traced.prunable}
    keep = select(traced, counts, "random")
    assert verify(traced, keep).exact
    wide = resize(traced, select(traced, {g.name: g.channels + g.step for g in traced.prunable}, "l2"))
    assert run(session(wide), random_inputs(traced.folded.specs), ["logits"])["logits"].shape == (1, 10)
