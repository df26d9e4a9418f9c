"""Float16 models: trained in float32, written back in float16, fed float16 by onnxruntime whatever the data are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

import netadapt_onnx
from models import Builder, plain
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.data.evaluate import accuracy, outputs
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.search.search_options import Rank
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.reconstruct.gram import gram_matrices, original_targets
from netadapt_onnx.surgery.reconstruct.least_squares import reconstruct
from netadapt_onnx.surgery.trace import trace as traced
from netadapt_onnx.training.batchnorm import reestimate, unfold
from netadapt_onnx.training.choose_settings import choose_settings
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph
from netadapt_onnx.training.trainer import train

FLOAT = Settings("float32", True, 1)


def half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with weights, inputs and outputs in float16."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for tensor in changed.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            narrow = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
    for value in (*changed.graph.input, *changed.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.checker.check_model(changed, full_check=True)
    return changed


def cast_inside() -> onnx.ModelProto:
    """Float32 outside, float16 inside: what converters that keep the inputs' type make."""
    inner = half(plain((8, 16, 16)))
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in inner.graph.node]
    for node in nodes:
        node.input[:] = ["image_half" if name == "image" else name for name in node.input]
        node.output[:] = ["logits_half" if name == "logits" else name for name in node.output]
    down = onnx.helper.make_node("Cast", ["image"], ["image_half"], "down", to=TensorProto.FLOAT16)
    up = onnx.helper.make_node("Cast", ["logits_half"], ["logits"], "up", to=TensorProto.FLOAT)
    del inner.graph.node[:]
    inner.graph.node.extend([down, *nodes, up])
    for value in (*inner.graph.input, *inner.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.checker.check_model(inner, full_check=True)
    return inner


def folded_network() -> onnx.ModelProto:
    b = Builder()
    x = b.relu(b.conv("image", 3, 8))
    x = b.relu(b.conv(x, 8, 16, stride=2))
    b.head(x, 16)
    return half(b.model({"image": ("N", 3, 16, 16)}, {"logits": ("N", 10)}))


def patterns(train_samples: int, *, dtype: type = np.float16, labelled: bool = True) -> Dataset:
    """Ten fixed patterns under noise."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((10, 3, 16, 16))

    def split(count: int) -> Split:
        y = rng.integers(0, 10, count)
        x = centers[y] + 0.5 * rng.standard_normal((count, 3, 16, 16))
        return Split({"image": x.astype(dtype)}, y if labelled else None)

    return Dataset(split(train_samples), split(200))


def types(proto: onnx.ModelProto) -> dict[str, int]:
    return {t.name: t.data_type for t in proto.graph.initializer}


@pytest.mark.parametrize(
    ("proto", "dtype"),
    [(half(plain((8, 16, 16))), np.float16), (cast_inside(), np.float32), (folded_network(), np.float16)],
    ids=["half", "cast inside", "folded"],
)
def test_they_learn_in_float32_and_stay_float16(proto: onnx.ModelProto, dtype: type) -> None:
    data = patterns(640, dtype=dtype)
    trained = train(proto, data, TrainingOptions(epochs=16, settings=FLOAT)).proto
    assert types(trained) == types(proto)
    assert [n.op_type for n in trained.graph.node] == [n.op_type for n in proto.graph.node]
    assert {value.dtype for value in TorchGraph(trained).state().values()} == {torch.float32}
    assert accuracy(proto, data.val).value < 0.4
    assert accuracy(trained, data.val).value > 0.8


def test_they_are_taught_without_labels_with_any_settings() -> None:
    data, teacher = patterns(128, labelled=False), half(plain((8, 16, 16)))
    student = half(plain((6, 12, 16), seed=1))
    for settings in (Settings("bfloat16", False, 2), Settings("float32", True, 2)):
        results = [
            train(student, data, TrainingOptions(steps=3, augment=True, settings=settings), teacher=teacher).proto
            for _ in range(2)
        ]
        assert types(results[0]) == types(student)
        assert results[0].SerializeToString(deterministic=True) == results[1].SerializeToString(deterministic=True)
    assert choose_settings(student, data).replicas >= 1


def test_statistics_are_estimated_and_batchnorm_is_given_back() -> None:
    data, network = patterns(256), folded_network()
    unfolded = unfold(network, data.train)
    assert sum(n.op_type == "BatchNormalization" for n in unfolded.graph.node) == 2
    proto = half(plain((8, 16, 16)))
    result = reestimate(proto, data.train)
    assert types(result) == types(proto)
    assert np.isfinite(outputs(result, data.val)["logits"]).all()


def test_statistics_too_large_for_float16_are_as_large_as_it_goes() -> None:
    proto = half(plain((8, 16, 16)))
    graph = TorchGraph(proto)
    for value in graph.statistics.values():
        value.fill_(1e6)
    written = {t.name: numpy_helper.to_array(t) for t in graph.write_back(proto).graph.initializer}
    assert all((written[name] == np.finfo(np.float16).max).all() for name in graph.statistics)


def test_reconstruction_of_large_activations_does_not_overflow() -> None:
    x = 30 * np.random.default_rng(0).standard_normal((256, 3, 16, 16)).astype(np.float16)
    errors = {}
    for proto in (plain(), half(plain())):
        original = traced(fold(proto))
        inputs = {"image": x.astype(next(iter(original.folded.specs.values()))[1])}
        expected = run(session(proto), inputs)["logits"].astype(np.float64)
        keep = select(original, {original.prunable[1].name: 12}, "l2")
        small = reconstruct(original, keep, gram_matrices(original, inputs, original_targets(original, inputs)))
        scores = run(session(small), inputs)["logits"].astype(np.float64)
        errors[inputs["image"].dtype.name] = float(np.square(scores - expected).sum() / np.square(expected).sum())
    assert errors["float16"] == pytest.approx(errors["float32"], rel=0.05)


@pytest.mark.parametrize(("stored", "rank"), [("float16", "finetune"), ("uint8", "reconstruct")])
def test_finetune_and_adapt_take_them(stored: str, rank: Rank, tmp_path: Path) -> None:
    model, data = tmp_path / "half.onnx", patterns(256)
    onnx.save(half(plain((8, 16, 16))), model)
    arrays = {}
    for name, split in (("train", data.train), ("val", data.val)):
        x = split.inputs["image"]
        arrays[f"x_{name}"] = x if stored == "float16" else (x * 32 + 128).clip(0, 255).astype(np.uint8)
        arrays[f"y_{name}"] = split.labels
    if stored == "uint8":
        arrays |= {"mean": np.full(3, 0.5, np.float32), "std": np.full(3, 0.125, np.float32)}
    np.savez(tmp_path / "data.npz", **arrays)
    tuned = netadapt_onnx.finetune(model, tmp_path / "data.npz", tmp_path / "tuned.onnx", epochs=4)
    assert tuned.accuracy.after > tuned.accuracy.before
    result = netadapt_onnx.adapt(
        tuned.model, tmp_path / "data.npz", "macs=0.8x", tmp_path / "run", rank=rank, step=4, short_term=2,
        final_epochs=1,
    )  # fmt: skip
    assert result.met
    assert set(types(onnx.load(result.model)).values()) <= {TensorProto.FLOAT16, TensorProto.INT64}
