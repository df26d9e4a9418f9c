"""Gradient scores against brute force: what the loss changes by when a channel is scaled or removed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
from criterion_cases import images, labelled, logits
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.criteria.selection import MEASURED, importance
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.training.data_criteria import criterion_on
from netadapt_onnx.training.gradient_scores import BATCH, fisher, taylor
from tracing import trace_model


def losses(proto: onnx.ModelProto, split: Split) -> np.ndarray:
    """Cross-entropy of every sample, in float64."""
    scores = logits(proto, split.inputs["image"]).astype(np.float64)
    assert split.labels is not None
    top = scores.max(1)
    normaliser = np.log(np.exp(scores - top[:, None]).sum(1)) + top
    return normaliser - scores[np.arange(len(scores)), split.labels]


def scaled(proto: onnx.ModelProto, weights: dict[str, int], channel: int, factor: float) -> onnx.ModelProto:
    """The model with a channel's slices of these weights, each along its axis, multiplied."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            value = np.moveaxis(numpy_helper.to_array(tensor).copy(), weights[tensor.name], 0)
            value[channel] *= factor
            tensor.CopyFrom(numpy_helper.from_array(np.moveaxis(value, 0, weights[tensor.name]), tensor.name))
    return copy


@pytest.mark.parametrize(
    ("build", "group", "consumers"),
    [
        (models.plain, "conv2", {"conv3.weight": 1}),
        (models.residual, "conv1", {"conv2.weight": 1, "conv4.weight": 1, "fc1.weight": 1}),
        (models.grouped, "conv1", {"conv3.weight": 1}),  # through the depthwise convolution
    ],
)
def test_scores_are_squared_gradients_of_the_consumers_slices(build, group: str, consumers: dict[str, int]) -> None:  # type: ignore[no-untyped-def]
    traced = trace_model(build())
    proto = traced.folded.proto
    # Labels that the model does not expect: its loss is large, and so are its gradients.
    split = Split({"image": images(BATCH)}, np.arange(BATCH) % 10)
    step = 0.01
    by_sample = []
    for channel in range(traced.group(group).channels):
        up, down = (losses(scaled(proto, consumers, channel, 1 + s), split) for s in (step, -step))
        by_sample.append((up - down) / (2 * step))
    gradients = np.array(by_sample)  # (channels, samples)
    members = traced.members[group]
    first, second = taylor(traced, split)[members], fisher(traced, split)[members]
    np.testing.assert_allclose(first, gradients.mean(1) ** 2, rtol=0.02, atol=2e-3 * first.max())
    np.testing.assert_allclose(second, (gradients**2).mean(1) / 2, rtol=0.02, atol=2e-3 * second.max())


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_gradient_scores_rank_channels_by_what_their_removal_costs(name: str) -> None:
    traced = trace_model(models.plain((16, 24, 32)))
    split = labelled(traced.folded.proto, 256)
    scores = importance(traced, criterion_on(name, split))
    correlations, baseline = [], []
    dense = losses(traced.folded.proto, split)
    for group in traced.prunable:
        cost = []
        for channel in range(group.channels):
            cut = resize(traced, {group.name: np.delete(np.arange(group.channels), channel)})
            change = losses(cut, split) - dense
            cost.append(abs(change.mean()) if name == "taylor" else (change**2).mean())
        correlations.append(rank_correlation(scores[group.name], np.array(cost)))
        baseline.append(rank_correlation(importance(traced, "random")[group.name], np.array(cost)))
    assert np.mean(correlations) > 0.6
    assert np.mean(correlations) > np.mean(baseline) + 0.4


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def test_a_batch_fixed_in_the_file_changes_no_score() -> None:
    free = trace_model(models.plain((8, 12), size=8))
    fixed_proto = models.plain((8, 12), size=8)
    for value in (*fixed_proto.graph.input, *fixed_proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    fixed = trace_model(fixed_proto)
    split = labelled(free.folded.proto, 2 * BATCH, 8)
    for name in set(MEASURED) - {"obs"}:  # obs weighs a layer's outputs as they are, in front of their BatchNorm
        a, b = (importance(traced, criterion_on(name, split)) for traced in (free, fixed))
        assert all(np.allclose(a[group], b[group], rtol=1e-3) for group in a), name


@pytest.mark.seconds
def test_without_labels_fisher_is_the_curvature_of_the_divergence() -> None:
    """A gate's Fisher information is the variance, under the model's own answer, of what it adds to the scores."""
    traced = trace_model(models.plain((6, 8), size=8))
    x = images(2048, 8)
    proto = traced.folded.proto
    p = np.exp(logits(proto, x).astype(np.float64))
    p /= p.sum(1, keepdims=True)
    expected = []
    for channel in range(8):
        added = logits(proto, x) - logits(scaled(proto, {"fc1.weight": 1}, channel, 0.0), x)
        expected.append(((p * added**2).sum(1) - (p * added).sum(1) ** 2).mean() / 2)
    got = fisher(traced, Split({"image": x}))[traced.members["conv2"]]
    np.testing.assert_allclose(got, expected, rtol=0.15)


def test_gradient_scores_do_not_see_whether_batchnorm_is_folded() -> None:
    kept = models.plain((8, 12))
    folded = onnx.ModelProto.FromString(kept.SerializeToString())
    values = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in kept.graph.initializer}
    for i in (1, 2):
        scale = values[f"bn{i}.scale"] / np.sqrt(values[f"bn{i}.var"] + 1e-5)
        shift = values[f"bn{i}.bias"] - values[f"bn{i}.mean"] * scale
        weight = next(t for t in folded.graph.initializer if t.name == f"conv{i}.weight")
        folded_weight = values[weight.name] * scale[:, None, None, None]
        weight.CopyFrom(numpy_helper.from_array(folded_weight.astype(np.float32), weight.name))
        folded.graph.initializer.append(numpy_helper.from_array(shift.astype(np.float32), f"conv{i}.bias"))
        conv, norm, relu = (next(n for n in folded.graph.node if n.name == f"{k}{i}") for k in ("conv", "bn", "relu"))
        conv.input.append(f"conv{i}.bias")
        relu.input[0] = conv.output[0]
        folded.graph.node.remove(norm)
    split = labelled(kept, 64)
    for name in set(MEASURED) - {"obs"}:  # obs weighs a layer's outputs as they are, in front of their BatchNorm
        a, b = (importance(trace_model(proto), criterion_on(name, split), normalised=True) for proto in (kept, folded))
        assert all(np.allclose(a[group], b[group], rtol=1e-3, atol=1e-5) for group in a), name
    assert not np.allclose(importance(trace_model(kept))["conv1"], importance(trace_model(folded))["conv1"], rtol=0.05)


def test_a_loss_that_depends_on_nothing_is_refused() -> None:
    proto = models.plain((8, 12))
    weight = next(t for t in proto.graph.initializer if t.name == "fc1.weight")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((10, 12), np.float32), weight.name))
    with pytest.raises(NetadaptError, match="depends on no channel"):
        importance(trace_model(proto), criterion_on("taylor", Split({"image": images(16)})))
