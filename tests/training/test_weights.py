"""Running statistics that several BatchNorms read: each layer follows its own data, and the file holds the copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import netadapt_onnx as na
from models import Builder, plain
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.training.batchnorm import reestimate
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.trainer import train
from netadapt_onnx.training.weights import separate_statistics

pytestmark = pytest.mark.usefixtures("fixed_training_settings")
FLOAT = Settings("float32", True, 1)


def towers(*, merged: bool = False) -> onnx.ModelProto:
    """A head of convolution and BatchNorm that two levels of a pyramid share, as RetinaNet's.

    `merged`: as an untrained export stores it, where equal tensors are one: scale and variance, shift and mean.
    """
    b = Builder()
    first = b.relu(b.conv("image", 3, 8))
    second = b.relu(b.conv(first, 8, 8, stride=2))
    levels = [b.batchnorm(b.conv(first, 8, 12, bias=False, name="head"), 12)]
    levels.append(_again(b, "bn1", _again(b, "head", second, "head2_out"), "bn2_out"))
    for level, x in enumerate(levels):
        b.node("Flatten", [b.node("GlobalAveragePool", [x])], output=f"level{level}")
    b.head(b.relu(levels[0]), 12)
    if merged:
        _merge(b)
    outputs: dict[str, tuple[int | str, ...]] = {"logits": ("N", 10), "level0": ("N", 12), "level1": ("N", 12)}
    return b.model({"image": ("N", 3, 8, 8)}, outputs)


def _again(b: Builder, name: str, x: str, output: str) -> str:
    """A node once more, with the same weights, on another input."""
    node = onnx.NodeProto()
    node.CopyFrom(next(n for n in b.nodes if n.name == name))
    node.name, node.input[0], node.output[0] = f"{name}/again", x, output
    b.nodes.append(node)
    return output


def _merge(b: Builder) -> None:
    kept = [t for t in b.initializers if not t.name.startswith("bn1.")]
    ones, zeros = (numpy_helper.from_array(np.full(12, v, np.float32), f"bn1.{v}") for v in (1, 0))
    b.initializers[:] = [*kept, ones, zeros]
    for node in b.nodes:
        if node.op_type == "BatchNormalization":
            node.input[1:] = [ones.name, zeros.name, zeros.name, ones.name]


def samples(count: int = 64, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    return Split({"image": rng.standard_normal((count, 3, 8, 8)).astype(np.float32)})


def norms(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type == "BatchNormalization"]


def value(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == name))


@pytest.mark.parametrize("merged", [False, True])
def test_each_layer_gets_statistics_of_its_own_and_weights_stay_tied(merged: bool) -> None:
    proto = towers(merged=merged)
    separated = separate_statistics(proto)
    a, b = norms(separated)
    statistics = [*a.input[3:5], *b.input[3:5]]
    assert len(set(statistics)) == 4
    assert not set(statistics) & {*a.input[:3], *b.input[:3]}
    assert list(a.input[1:3]) == list(b.input[1:3])
    assert separate_statistics(separated) is separated
    x = samples(4).batch(slice(None))
    for name, expected in run(session(proto), x).items():
        np.testing.assert_array_equal(run(session(separated), x)[name], expected)


def test_a_graph_that_shares_nothing_is_left_alone() -> None:
    proto = plain()
    assert separate_statistics(proto) is proto


@pytest.mark.parametrize("merged", [False, True])
def test_training_writes_what_each_layer_has_seen(merged: bool) -> None:
    """With a rate of nearly nothing the weights stay, so the statistics come to those of each level's own data."""
    proto, split = towers(merged=merged), samples()
    data = Dataset(split, split)
    trained = train(proto, data, TrainingOptions(steps=60, lr=1e-7, batch_size=64, settings=FLOAT), teacher=proto).proto
    inputs = [node.input[0] for node in norms(trained)]
    seen = run(session(trained, outputs=inputs), split.batch(slice(None)), inputs)
    for node, name in zip(norms(trained), inputs, strict=True):
        mean, variance = (value(trained, tensor) for tensor in node.input[3:5])
        flat = np.moveaxis(seen[name], 1, 0).reshape(12, -1)
        np.testing.assert_allclose(mean, flat.mean(1), rtol=0, atol=0.02 * flat.std())
        np.testing.assert_allclose(variance, flat.var(1), rtol=0.05, atol=0.02 * flat.var())
    first, second = (value(trained, node.input[3]) for node in norms(trained))
    assert np.abs(first - second).max() > 0.05  # they were one, and are of two levels
    onnx.checker.check_model(trained, full_check=True)


def test_reestimation_gives_each_layer_its_own() -> None:
    proto, split = towers(merged=True), samples()
    result = reestimate(proto, split)
    inputs = [node.input[0] for node in norms(result)]
    seen = run(session(result, outputs=inputs), split.batch(slice(None)), inputs)
    for node, name in zip(norms(result), inputs, strict=True):
        expected = np.moveaxis(seen[name], 1, 0).reshape(12, -1).mean(1)
        np.testing.assert_allclose(value(result, node.input[3]), expected, rtol=0, atol=1e-4)


def test_such_a_model_is_adapted_and_scaled(tmp_path: Path) -> None:
    onnx.save(towers(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x_train=samples().inputs["image"], x_val=samples(16, 1).inputs["image"])
    model, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    result = na.adapt(model, data, "macs=0.8x", tmp_path / "run", step=2, final_epochs=1, init_reduction_ratio=0.2)
    assert result.met
    wider = na.scale(model, data, target="params=1.5x", method="uniform", out=tmp_path / "wider", seeds=1, epochs=1)
    assert wider.models[0].model is not None
    a, b = norms(na.load(wider.models[0].model).proto)
    assert len({*a.input[3:5], *b.input[3:5]}) == 4
