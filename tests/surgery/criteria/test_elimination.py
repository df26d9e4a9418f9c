"""Elimination on matrices alone: several at once against one at a time, and features that are not the same for all."""

from __future__ import annotations

import numpy as np
import pytest

import models
from netadapt_onnx.surgery.criteria import elimination
from netadapt_onnx.surgery.criteria.consumers import Consumer
from netadapt_onnx.surgery.criteria.elimination import Elimination, System, eliminate
from netadapt_onnx.surgery.reconstruct.layers import linear_layers
from tracing import trace_model


def gram_and_weights(features: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """H of features that depend on each other, and W, scaled so that all outputs together have the size 1."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal((4 * features, features)) @ rng.standard_normal((features, features))
    gram = samples.T @ samples / len(samples)
    weights = rng.standard_normal((features, outputs))
    return gram, weights / np.sqrt((weights * (gram @ weights)).sum())


def direct_error(gram: np.ndarray, weights: np.ndarray, gone: np.ndarray) -> float:
    """What the outputs lose without some features, the others solved anew."""
    kept = np.setdiff1d(np.arange(len(gram)), gone)
    gap = weights.copy()
    gap[kept] -= np.linalg.solve(gram[np.ix_(kept, kept)], gram[kept] @ weights)
    return float((gap * (gram @ gap)).sum())


@pytest.mark.parametrize("size", [1, 3])
def test_several_at_once_cost_what_they_cost_together_and_hardly_more_than_one_by_one(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = 40
    gram, weights = gram_and_weights(classes * size, 7)

    def errors() -> tuple[np.ndarray, np.ndarray]:
        order, added = eliminate([System(np.arange(classes), np.linalg.inv(gram), weights.copy())], classes)
        return order, np.cumsum(added)

    _, one_by_one = errors()
    monkeypatch.setattr(elimination, "SHARE_AT_ONCE", 8)
    order, together = errors()
    assert sorted(order) == list(range(classes))
    for gone in (1, 5, 13, 30):
        rows = (order[:gone, None] * size + np.arange(size)).reshape(-1)
        assert together[gone - 1] == pytest.approx(direct_error(gram, weights, rows), rel=1e-6)
    assert (together[10:] < 1.1 * one_by_one[10:]).all()


def test_of_two_channels_that_stand_in_for_each_other_only_one_goes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "SHARE_AT_ONCE", 4)
    gram, weights = gram_and_weights(24, 5)
    equal = np.r_[np.arange(24), 3]  # the last is the fourth once more
    gram, weights = gram[np.ix_(equal, equal)] + 1e-6 * np.eye(25), weights[equal]
    order, _ = eliminate([System(np.arange(25), np.linalg.inv(gram), weights.copy())], 25)
    assert order[0] in (3, 24)
    assert {3, 24} - set(order[:6].tolist())


def test_classes_may_have_different_numbers_of_features_in_a_conv_group() -> None:
    gram, weights = gram_and_weights(6, 4)
    class_of = np.array([[0, 1, 1, -1, 2, 0]])
    layer = linear_layers(trace_model(models.plain((4, 4), size=8)))[0]
    consumer = Consumer(layer, class_of, np.linalg.inv(gram)[None], weights[None])
    order, added = eliminate(consumer.systems(), 3)
    for gone in range(1, 4):
        rows = np.flatnonzero(np.isin(class_of[0], order[:gone]))
        error = direct_error(gram, weights, rows)
        assert np.cumsum(added)[gone - 1] == pytest.approx(error, rel=1e-6)
        assert consumer.error(order[:gone], gram[None]) == pytest.approx(error, rel=1e-6)


def test_an_elimination_knows_kept_channels_and_errors_at_every_count() -> None:
    """Three classes of two channels each."""
    order = Elimination(np.array([0, 1, 2, 0, 1, 2]), np.array([2, 0, 1]), np.array([0, 0.1, 0.3, 1.0]))
    assert order.step == 2
    assert [order.error(count) for count in (6, 4, 2, 0)] == [0, 0.1, 0.3, 1.0]
    assert order.kept(4).tolist() == [0, 1, 3, 4]
    assert order.kept(2).tolist() == [1, 4]
    assert np.argsort(order.scores).tolist() == [2, 0, 1]


def test_scores_rise_in_the_order_even_where_a_class_adds_less_than_the_one_before() -> None:
    scores = Elimination(np.arange(4), np.array([1, 3, 0, 2]), np.array([0, 0.2, 0.2, 0.25, 1.0])).scores
    assert np.argsort(scores, kind="stable").tolist() == [1, 3, 0, 2]
    assert len(set(scores)) == 4
