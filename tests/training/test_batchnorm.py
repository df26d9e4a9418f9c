"""BatchNorm given back to folded graphs changes no output; re-estimated statistics are those of the layers' inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models import Builder, grouped, plain, residual
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.graph.fold_shapes import fold as normalise_and_fold
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.training.batchnorm import SUFFIX, fold, reestimate, unfold
from training_cases import without_batchnorms


def samples(count: int = 64) -> Split:
    return Split({"image": np.random.default_rng(0).standard_normal((count, 3, 16, 16)).astype(np.float32)})


def out(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return run(session(proto), inputs)["logits"]


@pytest.mark.parametrize("batch", ["N", 1])
def test_unfolding_and_folding_change_no_output(batch: int | str) -> None:
    proto, held = without_batchnorms(batch), samples()
    inputs = held.batch(slice(0, 1 if batch == 1 else 8))
    unfolded = unfold(proto, held)
    onnx.checker.check_model(unfolded, full_check=True)
    expected = out(proto, inputs)
    scale = float(expected.std())
    np.testing.assert_allclose(out(unfolded, inputs), expected, rtol=0, atol=1e-5 * scale)
    back = fold(unfolded)
    onnx.checker.check_model(back, full_check=True)
    np.testing.assert_allclose(out(back, inputs), expected, rtol=0, atol=1e-5 * scale)
    assert [n.op_type for n in back.graph.node] == [n.op_type for n in proto.graph.node]
    assert {t.name for t in back.graph.initializer} - {t.name for t in proto.graph.initializer} == {
        "conv4.weight.netadapt_bias"
    }


def test_every_convolution_in_front_of_another_layer_gets_one() -> None:
    added = [n.name for n in unfold(without_batchnorms(), samples()).graph.node if n.op_type == "BatchNormalization"]
    assert added == [f"conv{i}/netadapt_batchnorm" for i in (1, 2, 3, 4)]  # the gate sees one position per sample


def test_added_statistics_are_those_of_the_layer() -> None:
    held = samples()
    unfolded = unfold(without_batchnorms(), held)
    values = {t.name: numpy_helper.to_array(t) for t in unfolded.graph.initializer}
    exposed = onnx.ModelProto.FromString(unfolded.SerializeToString())
    (norm,) = [n for n in unfolded.graph.node if n.name == "conv3/netadapt_batchnorm"]
    exposed.graph.output.append(onnx.ValueInfoProto(name=norm.input[0]))
    x = run(session(exposed), held.batch(slice(None)))[norm.input[0]]
    np.testing.assert_allclose(values[norm.input[3]], x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values[norm.input[4]], x.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_folding_keeps_what_training_made_of_it() -> None:
    held = samples()
    unfolded = unfold(without_batchnorms(), held)
    rng = np.random.default_rng(1)
    for tensor in unfolded.graph.initializer:
        if "netadapt_batchnorm" in tensor.name:
            value = numpy_helper.to_array(tensor) * rng.uniform(0.5, 1.5, tensor.dims).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    inputs = held.batch(slice(0, 8))
    expected = out(unfolded, inputs)
    np.testing.assert_allclose(out(fold(unfolded), inputs), expected, rtol=0, atol=1e-5 * float(expected.std()))


def without_batchnorm(proto: onnx.ModelProto) -> onnx.ModelProto:
    """As an exporter folds it away."""
    named = onnx.ModelProto.FromString(proto.SerializeToString())
    for node in named.graph.node:
        node.name += SUFFIX if node.op_type == "BatchNormalization" else ""
    return fold(named)


def cut(proto: onnx.ModelProto) -> onnx.ModelProto:
    original = trace(normalise_and_fold(proto))
    return resize(original, select(original, {group.name: group.channels // 2 for group in original.prunable}, "first"))


def test_a_cut_of_a_folded_model_gets_the_uncut_ones_statistics_as_if_its_export_had_kept_batchnorm() -> None:
    """Kept: cut, statistics estimated anew. Folded: cut, BatchNorm given back. Both answer alike."""
    held = samples(128)
    kept = reestimate(residual(), held)
    dense = without_batchnorm(kept)
    inputs = held.batch(slice(0, 16))
    expected = out(reestimate(cut(kept), held), inputs)
    np.testing.assert_allclose(out(dense, inputs), out(kept, inputs), rtol=0, atol=1e-4 * float(expected.std()))
    small = cut(dense)
    assert np.abs(out(small, inputs) - expected).max() > 0.1 * expected.std()
    unfolded = unfold(small, held, dense)
    np.testing.assert_allclose(out(unfolded, inputs), expected, rtol=0, atol=2e-3 * float(expected.std()))
    np.testing.assert_allclose(out(fold(unfolded), inputs), expected, rtol=0, atol=2e-3 * float(expected.std()))


def test_a_model_that_is_no_mere_cut_gets_its_own_statistics() -> None:
    held = samples()
    dense = without_batchnorm(residual())
    small = cut(dense)
    inputs = held.batch(slice(0, 8))
    solved = onnx.ModelProto.FromString(small.SerializeToString())
    bias = next(t for t in solved.graph.initializer if t.name.endswith("_bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
    for proto, uncut in ((solved, dense), (small, small), (dense, dense), (small, without_batchnorms())):
        expected = out(proto, inputs)
        values = out(unfold(proto, held, uncut), inputs)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5 * float(expected.std()))


@pytest.mark.parametrize("build", [plain, residual, grouped])
def test_graphs_that_kept_batchnorm_are_left_alone(build: Callable[[], onnx.ModelProto]) -> None:
    proto = build()
    assert unfold(proto, samples(4)) is proto
    assert fold(proto) is proto


def test_shared_weights_and_heads_are_left_alone() -> None:
    b = Builder()
    weight = b.random("shared", (3, 3, 3, 3), 27)
    x = b.node("Relu", [b.node("Conv", ["image", weight], "first", pads=[1] * 4)])
    x = b.node("Relu", [b.node("Conv", [x, weight], "second", pads=[1] * 4)])
    b.node("Relu", [b.conv(x, 3, 4, name="last")], output="logits")
    proto = b.model({"image": ("N", 3, 16, 16)}, {"logits": ("N", 4, 16, 16)})
    assert unfold(proto, samples(4)) is proto


def test_reestimated_statistics_normalise_every_layer() -> None:
    proto, held = residual(), samples(256)
    corrected = reestimate(proto, held)
    exposed = onnx.ModelProto.FromString(corrected.SerializeToString())
    norms = [n for n in corrected.graph.node if n.op_type == "BatchNormalization"]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=n.input[0]) for n in norms)
    activations = run(session(exposed), held.batch(slice(None)))
    values = {t.name: numpy_helper.to_array(t) for t in corrected.graph.initializer}
    for norm in norms:
        x = activations[norm.input[0]]
        scale = float(x.std())
        np.testing.assert_allclose(values[norm.input[3]], x.mean((0, 2, 3)), rtol=0, atol=0.03 * scale)
        np.testing.assert_allclose(values[norm.input[4]], x.var((0, 2, 3)), rtol=0.1, atol=0)


def test_without_batchnorm_there_is_nothing_to_reestimate() -> None:
    proto = without_batchnorms()
    assert reestimate(proto, samples(4)) is proto
