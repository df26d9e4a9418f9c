"""The metrics say what torchmetrics says, in parts or at once, and count what is no number as wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchmetrics

from netadapt_onnx.data.metrics import R2, MeanIoU, Meter, Top1

RNG = np.random.default_rng(0)


def filled(meter: Meter, output: np.ndarray, labels: np.ndarray, parts: int = 3) -> float:
    for index in np.array_split(np.arange(len(labels)), parts):
        meter.update(output[index], labels[index])
    return meter.value


def theirs(metric: torchmetrics.Metric, output: np.ndarray, labels: np.ndarray) -> float:
    metric.update(torch.from_numpy(output), torch.from_numpy(labels))
    return float(metric.compute())


def test_top1_is_theirs() -> None:
    scores, labels = RNG.standard_normal((50, 7)), RNG.integers(0, 7, 50)
    expected = theirs(torchmetrics.classification.MulticlassAccuracy(7, average="micro"), scores, labels)
    assert filled(Top1(), scores, labels) == pytest.approx(expected, abs=1e-6)
    assert filled(Top1(), scores[:, :, None, None], labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("columns", [1, 5])
def test_r2_is_theirs(columns: int) -> None:
    labels = RNG.standard_normal((60, columns)) * np.arange(1, columns + 1) + 10 * np.arange(columns)
    output = labels + 0.5 * RNG.standard_normal(labels.shape)
    expected = theirs(torchmetrics.R2Score(multioutput="variance_weighted"), output, labels)
    assert filled(R2(), output, labels) == pytest.approx(expected, abs=1e-6)


def test_r2_of_the_mean_is_zero_and_worse_is_below() -> None:
    labels = RNG.standard_normal((40, 3))
    assert filled(R2(), np.broadcast_to(labels.mean(0), labels.shape), labels) == pytest.approx(0, abs=1e-12)
    assert filled(R2(), -labels, labels) < -1
    assert filled(R2(), labels, labels) == 1
    still = np.ones((4, 2))
    assert (filled(R2(), still, still), filled(R2(), 2 * still, still)) == (1, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_no_numbers_are_as_good_as_the_mean(value: float) -> None:
    labels = RNG.standard_normal((40, 3))
    broken, mean = labels.copy(), labels.copy()
    broken[5:9, 1], mean[5:9, 1] = value, labels[:, 1].mean()
    assert filled(R2(), broken, labels) == pytest.approx(filled(R2(), mean, labels), abs=1e-12)
    scores, classes = np.eye(3)[RNG.integers(0, 3, 20)], RNG.integers(0, 3, 20)
    hits = scores.argmax(1) == classes
    scores[:4] = value
    assert filled(Top1(), scores, classes) == pytest.approx(hits[4:].sum() / 20)


@pytest.mark.parametrize("axis", [1, -1])
def test_miou_is_theirs(axis: int) -> None:
    # Class 5 occurs nowhere, so it does not count; one position in ten is not labelled.
    labels = RNG.integers(0, 5, (12, 6, 7))
    labels[RNG.random(labels.shape) < 0.1] = 255
    answered = np.where(RNG.random(labels.shape) < 0.5, labels % 5, RNG.integers(0, 5, labels.shape))
    scores = np.moveaxis(np.eye(6)[answered], -1, axis)
    metric = torchmetrics.JaccardIndex(task="multiclass", num_classes=6, ignore_index=255)
    expected = theirs(metric, np.moveaxis(scores, axis, 1), labels)
    assert filled(MeanIoU(), scores, labels) == pytest.approx(expected, abs=1e-6)


def test_miou_of_positions_that_are_no_numbers_is_a_miss() -> None:
    labels = np.zeros((1, 2, 2), np.int64)
    scores = np.zeros((1, 2, 2, 2))
    scores[:, 0] = 1
    scores[0, :, 0, 0] = np.nan
    assert filled(MeanIoU(), scores, labels, 1) == pytest.approx(0.75)
