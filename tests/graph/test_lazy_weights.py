"""Weights that stay in their file until they are cut: the same results, without the gigabytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import large_graphs
import models
from netadapt_onnx.api.inspect import inspect
from netadapt_onnx.api.prune import prune
from netadapt_onnx.graph import onnx_file
from netadapt_onnx.graph.lazy_weights import unread_weights
from netadapt_onnx.graph.model import load, load_without_weights

BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = models.ALL | {
    name: lambda kind=kind: kind(3)  # type: ignore[misc]
    for name, kind in large_graphs.KINDS.items()
}


def save_with_external_weights(proto: onnx.ModelProto, file: Path) -> Path:
    """Save a model with all its weights in another file."""
    onnx.save_model(proto, str(file), save_as_external_data=True, location="weights", size_threshold=0)
    return file


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_in_another_file_change_no_result(name: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one.onnx", save_with_external_weights(BUILDERS[name](), tmp_path / "two.onnx")
    onnx.save(BUILDERS[name](), one)
    inside, outside = inspect(one), inspect(two)
    assert outside.layers == inside.layers
    assert outside.groups == inside.groups
    assert replace(outside.model, size_bytes=0) == replace(inside.model, size_bytes=0)
    assert outside.model.size_bytes == sum(file.stat().st_size for file in (two, tmp_path / "weights"))
    if not any(group.prunable for group in inside.groups):
        return
    cut_inside = prune(one, tmp_path / "cut_one.onnx", ratio=0.5)
    cut_outside = prune(two, tmp_path / "cut_two.onnx", ratio=0.5)
    assert cut_outside.groups == cut_inside.groups
    expected, got = onnx.load(tmp_path / "cut_one.onnx"), onnx.load(tmp_path / "cut_two.onnx")
    assert [node.SerializeToString() for node in got.graph.node] == [n.SerializeToString() for n in expected.graph.node]
    values = {t.name: onnx.numpy_helper.to_array(t) for t in got.graph.initializer}
    assert values.keys() == {t.name for t in expected.graph.initializer}
    for tensor in expected.graph.initializer:
        np.testing.assert_array_equal(values[tensor.name], onnx.numpy_helper.to_array(tensor))


def test_inspecting_reads_no_weights_and_a_cut_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save_with_external_weights(models.plain((8, 8)), tmp_path / "m.onnx")
    read: list[str] = []
    original = onnx_file.external_array

    def recorded(tensor: TensorProto, model: Path) -> np.ndarray | None:
        read.append(tensor.name)
        return original(tensor, model)

    monkeypatch.setattr("netadapt_onnx.graph.lazy_weights.external_array", recorded)
    model = load_without_weights(file)
    assert model.sha256 == ""
    convs = {node.input[1] for node in model.proto.graph.node if node.op_type in ("Conv", "Gemm")}
    assert convs == {t.name for t in model.proto.graph.initializer if t.data_location == TensorProto.EXTERNAL} & convs
    inspect(file)
    assert read == []
    prune(file, tmp_path / "cut.onnx", ratio=0.5)
    assert convs <= set(read)
    assert load_without_weights(file, hashed=True).sha256 == load(file).sha256


def test_what_constants_are_computed_from_is_read() -> None:
    b = models.Builder()
    product = b.node(
        "MatMul", [b.constant("left", np.eye(4, dtype=np.float32)), b.constant("right", np.ones((4, 4), "f4"))]
    )
    b.node("MatMul", ["x", product], output="y")
    proto = b.model({"x": (1, 4)}, {"y": (1, 4)})
    assert unread_weights(proto) == set()
    assert unread_weights(models.plain((8, 8)))
