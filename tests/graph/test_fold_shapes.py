"""Folding: one test per trap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session


def normalised(proto: onnx.ModelProto) -> onnx.ModelProto:
    normalise(proto)
    return proto


def outputs(proto: onnx.ModelProto, batch: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    specs = {
        v.name: (shapes.get(v.name, (batch, *[d.dim_value for d in v.type.tensor_type.shape.dim][1:])), np.dtype("f4"))
        for v in proto.graph.input
    }
    return run(session(proto), random_inputs(specs))


def assert_same(a: onnx.ModelProto, b: onnx.ModelProto, batch: int) -> None:
    for name, expected in outputs(a, batch).items():
        np.testing.assert_allclose(
            outputs(b, batch)[name], expected, atol=1e-6 * max(1.0, float(np.abs(expected).max()))
        )


def shape_arithmetic(allowzero: bool = False) -> onnx.ModelProto:
    """x.view(x.size(0), -1) and an expand over the batch, as exporters spell them."""
    b = models.Builder()
    x = b.conv("image", 3, 8)
    size = b.node("Gather", [b.node("Shape", [x]), b.constant("zero", np.array(0))])
    lifted = b.node("Unsqueeze", [size, b.constant("axis", np.array([0]))])
    target = b.node("Concat", [lifted, b.constant("rest", np.array([-1]))], axis=0)
    flat = b.node("Reshape", [x, target], **({"allowzero": 1} if allowzero else {}))
    dims = b.node("Concat", [lifted, b.constant("wide", np.array([8 * 16]))], axis=0)
    offset = b.node("Expand", [b.random("offset", (1, 1)), dims])
    b.fc(b.node("Add", [flat, offset]), 8 * 16, 5, output="logits")
    return b.model({"image": ("N", 3, 4, 4)}, {"logits": ("N", 5)})


@pytest.mark.parametrize("allowzero", [False, True])
def test_shape_arithmetic_folds_and_the_batch_stays_dynamic(allowzero: bool) -> None:
    proto = normalised(shape_arithmetic(allowzero))
    folded = fold(proto).proto
    assert not {"Concat", "Unsqueeze"} & {n.op_type for n in folded.graph.node}
    for batch in (1, 2, 5):
        assert_same(proto, folded, batch)


def test_folding_twice_is_folding_once() -> None:
    once = fold(normalised(shape_arithmetic())).proto
    twice = fold(normalised(onnx.ModelProto.FromString(once.SerializeToString()))).proto
    assert {t.name for t in twice.graph.initializer} == {t.name for t in once.graph.initializer}
    assert_same(once, twice, 3)


def test_folding_leaves_its_input_alone() -> None:
    proto = normalised(shape_arithmetic())
    before = proto.SerializeToString()
    fold(proto)
    assert proto.SerializeToString() == before


def test_shapes_cover_every_tensor() -> None:
    folded = fold(normalised(models.residual()))
    graph = folded.proto.graph
    names = {n for node in graph.node for n in node.output} | {t.name for t in graph.initializer} | {"image"}
    assert set(folded.shapes) == names
    assert folded.shapes["logits"] == (1, 10)


def test_a_dynamic_axis_beyond_the_first_needs_a_shape() -> None:
    b = models.Builder()
    b.conv("image", 3, 4, name="conv")
    proto = normalised(b.model({"image": ("N", 3, "H", "W")}, {"conv_out": ("N", 4, "H", "W")}))
    with pytest.raises(NetadaptError, match=r"dynamic axis beyond the first: \?x3x\?x\?; give its shape with --shape"):
        fold(proto)
    assert fold(proto, {"image": (1, 3, 6, 5)}).shapes["conv_out"] == (1, 4, 6, 5)
    with pytest.raises(NetadaptError, match="does not fit the input"):
        fold(proto, {"image": (1, 4, 6, 5)})


def test_external_data_is_read_and_may_not_leave_the_folder(tmp_path: Path) -> None:
    proto = models.plain((8, 8))
    path = tmp_path / "m.onnx"
    onnx.save_model(models.plain((8, 8)), str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    loaded = load(path)
    assert_same(normalised(proto), loaded.proto, 1)
    assert loaded.size_bytes == path.stat().st_size + (tmp_path / "m.data").stat().st_size
    outside = onnx.load(str(path), load_external_data=False)
    for tensor in outside.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../m.data"
    onnx.save_model(outside, str(tmp_path / "escaped.onnx"))
    with pytest.raises(NetadaptError, match="outside the model's folder"):
        load(tmp_path / "escaped.onnx")
    (tmp_path / "m.data").unlink()
    with pytest.raises(NetadaptError, match=r"external data file 'm.data' of tensor '.*' is missing"):
        load(path)


def test_a_shape_given_for_other_axes_leaves_the_batch_dynamic() -> None:
    b = models.Builder()
    x = b.node("GlobalAveragePool", [b.conv("image", 3, 8)])
    size = b.node("Gather", [b.node("Shape", [x]), b.constant("zero", np.array([0]))])
    target = b.node("Concat", [size, b.constant("rest", np.array([8]))], axis=0)
    b.fc(b.node("Reshape", [x, target]), 8, 5, output="logits")
    proto = normalised(b.model({"image": ("N", 3, "H", "W")}, {"logits": ("N", 5)}))
    folded = fold(proto, {"image": (1, 3, 6, 6)}).proto
    for batch in (1, 3):
        expected, got = (outputs(m, batch, image=(batch, 3, 6, 6))["logits"] for m in (proto, folded))
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_an_empty_input_is_refused() -> None:
    proto = models.plain((8,))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    with pytest.raises(NetadaptError, match="is empty: 0x3x16x16"):
        fold(normalised(proto))
