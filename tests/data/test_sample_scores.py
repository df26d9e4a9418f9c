"""Scores of single samples: their mean is the score of the model, and metrics that are no mean have none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from models import plain, transposed
from netadapt_onnx.data.dataset import Split, UserMetric
from netadapt_onnx.data.evaluate import accuracy, explained, outputs
from netadapt_onnx.data.sample_scores import sample_scores
from netadapt_onnx.surgery.resize import resize
from tracing import trace_model


def narrower(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with half of the channels of its first group."""
    traced = trace_model(proto)
    group = traced.prunable[0]
    return resize(traced, {group.name: np.arange(group.channels // 2)})


def split(count: int, *, labelled: bool) -> Split:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 3, 16, 16)).astype(np.float32)
    return Split({"image": x}, rng.integers(0, 10, count) if labelled else None)


def test_against_labels_the_mean_is_the_accuracy() -> None:
    proto, held = plain(), split(150, labelled=True)
    scores = sample_scores(proto, held)
    assert scores is not None
    assert set(scores) == {0.0, 1.0}
    assert scores.mean() == pytest.approx(accuracy(proto, held).value, abs=1e-12)


@pytest.mark.parametrize("original", [plain(), transposed()], ids=["scores", "map"])
def test_against_a_reference_the_mean_is_the_share_of_variance_that_is_explained(original: onnx.ModelProto) -> None:
    held, proto = split(40, labelled=False), narrower(original)
    reference = outputs(original, held)
    scores = sample_scores(proto, held, reference)
    assert scores is not None
    assert scores.shape == (40,)
    assert scores.mean() == pytest.approx(explained(outputs(proto, held), reference), abs=1e-9)
    assert scores.mean() < 1


def test_a_metric_of_the_users_and_positions_have_no_scores() -> None:
    held = split(8, labelled=True)
    assert sample_scores(plain(), replace(held, user_metric=UserMetric("own", lambda values, labels: 1.0))) is None
    assert sample_scores(plain(), replace(held, varies=True)) is None
    proto = transposed()
    shape = outputs(proto, held)
    (name, values), *_ = shape.items()
    maps = np.zeros((8, *values.shape[2:]), np.int64)
    assert sample_scores(proto, replace(held, labels={name: maps})) is None
    assert sample_scores(proto, replace(held, labels={name: values})) is None


def test_outputs_that_never_vary_have_no_scores() -> None:
    held, proto = split(8, labelled=False), plain()
    constant = {name: np.ones_like(values) for name, values in outputs(proto, held).items()}
    assert sample_scores(proto, held, constant) is None
