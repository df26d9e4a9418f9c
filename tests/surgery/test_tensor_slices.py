"""What a plan says of each tensor of the original is what the cut model has of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.kept_counts import at_ratio
from netadapt_onnx.surgery.plan import plan_of, read_plan, read_state_slices
from netadapt_onnx.surgery.residual_branches import find_branches, traced_without
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.tensor_slices import TensorSlice, lost_constants, state_slices
from rule_cases import CASES
from rule_cases import build as build_case
from tracing import trace_model

BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = {
    **models.ALL,
    **{f"{domain}.{op}": lambda domain=domain, op=op: build_case(domain, op) for domain, op in CASES},  # type: ignore[misc]
}


def values_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def sliced(value: np.ndarray, one: TensorSlice) -> np.ndarray:
    return value[np.ix_(*(one.axes.get(axis, range(size)) for axis, size in enumerate(one.shape)))]


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())
def test_slices_give_the_constants_of_the_cut_model(build: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    traced = trace_model(build())
    keep = select(traced, at_ratio(traced.prunable, 0.5, None), "l2")
    slices = state_slices(traced, keep)
    before, after = values_of(traced.flat.proto), values_of(resize(traced, keep))
    assert all(list(one.axes[a]) == keep[g].tolist() for one in slices.tensors.values() for a, g in one.groups.items())
    for name, value in after.items():
        if name not in before or name in slices.unclear or value.dtype.kind != "f":
            continue  # copies for single readers, and the targets of shapes, which are computed
        expected = sliced(before[name], slices.tensors[name]) if name in slices.tensors else before[name]
        np.testing.assert_array_equal(value, expected, name)
    (tmp_path / "plan.toml").write_text(plan_of(keep, slices=slices))
    assert read_state_slices(tmp_path / "plan.toml") == slices
    assert {n: v.tolist() for n, v in read_plan(tmp_path / "plan.toml", traced).items()} == {
        n: v.tolist() for n, v in keep.items()
    }


def shuffled_groups() -> onnx.ModelProto:
    """Two convolutions in two groups with a channel shuffle between them."""
    b = models.Builder(seed=2)
    x = b.relu(b.conv(b.conv("image", 3, 32, 1), 32, 32, 1, group=2))
    x = b.node("Reshape", [x, b.constant("split", np.array([0, 2, 16, 8, 8]))])
    x = b.node("Transpose", [x], perm=[0, 2, 1, 3, 4])
    x = b.node("Reshape", [x, b.constant("join", np.array([0, 32, 8, 8]))])
    b.head(b.relu(b.conv(x, 32, 32, 1, group=2, name="last")), 32)
    return b.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 10)})


def test_groups_of_a_convolution_that_keep_different_inputs_are_unclear() -> None:
    traced = trace_model(shuffled_groups())
    keep = select(traced, at_ratio(traced.prunable, 0.5, None), "l2")
    slices = state_slices(traced, keep)
    assert slices.unclear == ("last.weight",)
    assert "last.bias" in slices.tensors


def test_a_tensor_of_which_two_nodes_keep_different_parts_is_unclear() -> None:
    proto = models.plain((8, 8))
    second = [node for node in proto.graph.node if node.op_type == "BatchNormalization"][1]
    second.input[1] = "bn1.scale"  # as exports write it that keep equal values once
    traced = trace_model(proto)
    keep = {"conv1": np.array([0, 1]), "conv2": np.array([2, 3, 4])}
    slices = state_slices(traced, keep)
    assert slices.unclear == ("bn1.scale",)
    assert "bn1.scale" not in slices.tensors
    same = {"conv1": np.array([0, 1]), "conv2": np.array([0, 1])}
    assert state_slices(traced, same).tensors["bn1.scale"].axes == {0: (0, 1)}


def test_what_goes_with_a_branch_is_listed() -> None:
    traced = trace_model(models.residual())
    branch = find_branches(traced)[0].name
    smaller = traced_without(traced, [branch])
    lost = lost_constants(traced, smaller)
    assert lost and lost == set(values_of(traced.flat.proto)) - set(values_of(smaller.flat.proto))
    slices = state_slices(traced, {}, lost)
    assert (slices.removed, slices.tensors) == (tuple(sorted(lost)), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[groups]\n", '[groups]\n"conv2" = 4\n'), "was edited after"),
        (("shape = [16, 3, 3, 3]", "shape = [16, 3]"), None),
        (('axes = { 0 = "conv1" }', "axes = { 0 = [99] }"), "no positions"),
        (('axes = { 0 = "conv1" }', 'axes = { 0 = "conv9" }'), "is damaged"),
        (('axes = { 0 = "conv1" }', "axes = { zero = [1] }"), "is damaged"),
        (("[state_dict]\n", "[state_dict]\nmore = 1\n"), "is damaged"),
        (("[state_dict", "[other"), "is no plan"),
    ],
)
def test_a_section_that_does_not_fit_is_refused(change: tuple[str, str], message: str | None, tmp_path: Path) -> None:
    traced = trace_model(models.plain())
    keep = {"conv1": np.array([0, 2, 3])}
    text = plan_of(keep, slices=state_slices(traced, keep))
    assert change[0] in text
    (tmp_path / "plan.toml").write_text(text.replace(*change))
    if message is None:  # shapes are compared with those of the state dict
        assert read_state_slices(tmp_path / "plan.toml").tensors["conv1.weight"].shape == (16, 3)
        return
    with pytest.raises(NetadaptError, match=message):
        read_state_slices(tmp_path / "plan.toml")


def test_a_plan_without_the_section_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("[groups]\nconv1 = 3\n")
    with pytest.raises(NetadaptError, match=r"no section.*prune MODEL --plan"):
        read_state_slices(tmp_path / "plan.toml")
