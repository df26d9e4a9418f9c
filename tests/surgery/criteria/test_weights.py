"""Criteria that look at weights, on weights whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

import models
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.criteria.selection import importance
from netadapt_onnx.surgery.criteria.weights import CRITERIA
from netadapt_onnx.surgery.trace import Trace
from tracing import trace_model


def weights(traced: Trace) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in traced.folded.proto.graph.initializer}


def test_group_l2_counts_producers_and_consumers() -> None:
    traced = trace_model(models.plain((8, 12)))
    w = weights(traced)
    squares = (w["conv1.weight"] ** 2).sum(axis=(1, 2, 3)) + (w["conv2.weight"] ** 2).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(importance(traced, "group-l2")["conv1"], np.sqrt(squares))


def test_fpgm_is_the_distance_to_all_other_filters() -> None:
    traced = trace_model(models.plain((8, 12)))
    filters = weights(traced)["conv1.weight"].reshape(8, -1)
    expected = [sum(np.linalg.norm(a - b) for b in filters) for a in filters]
    np.testing.assert_allclose(importance(traced, "fpgm")["conv1"], expected, rtol=1e-5)


def test_bn_scale_is_the_scale_and_says_where_there_is_none() -> None:
    traced = trace_model(models.plain((8, 12)))
    np.testing.assert_allclose(importance(traced, "bn-scale")["conv1"], np.abs(weights(traced)["bn1.scale"]))
    with pytest.raises(NetadaptError, match="has no BatchNorm"):
        importance(trace_model(models.channels_last()), "bn-scale")


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"bn-scale"}))
@pytest.mark.parametrize("build", sorted(models.ALL))
def test_every_criterion_scores_every_group_of_every_model(name: str, build: str) -> None:
    traced = trace_model(models.ALL[build]())
    for group, scores in importance(traced, name).items():
        assert scores.shape == (traced.group(group).channels,)
        assert np.isfinite(scores).all()
        classes = traced.members[group]
        for root in np.unique(classes):  # channels that go together score alike, but for the order of 'first'
            assert name in ("first", "random") or np.ptp(scores[classes == root]) == 0
