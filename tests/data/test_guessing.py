"""An accuracy that guessing would have is told; one that is better, or is no accuracy of classes, is not."""

from __future__ import annotations

import numpy as np
import pytest

from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.guessing import guessing_note


def split(labels: np.ndarray) -> Split:
    return Split({"x": np.zeros((len(labels), 1), np.float32)}, labels)


TEN_CLASSES = split(np.repeat(np.arange(10), 40))
# The most frequent of two classes has 80% of the samples.
UNEVEN = split(np.repeat([0, 1], [320, 80]))


@pytest.mark.parametrize(("samples", "accuracy"), [(TEN_CLASSES, 0.1), (TEN_CLASSES, 0.12), (UNEVEN, 0.8)])
def test_a_model_that_guesses_is_told(samples: Split, accuracy: float) -> None:
    note = guessing_note("model.onnx", samples, "top1", accuracy)
    assert note.startswith(f"model.onnx is right on {accuracy:.1%} of the samples") and "classes are numbered" in note


@pytest.mark.parametrize(("samples", "accuracy"), [(TEN_CLASSES, 0.2), (TEN_CLASSES, 0.95), (UNEVEN, 0.9)])
def test_a_model_that_knows_something_is_not(samples: Split, accuracy: float) -> None:
    assert guessing_note("model.onnx", samples, "top1", accuracy) == ""


def test_other_metrics_a_single_class_and_a_few_samples_are_no_guessing() -> None:
    assert guessing_note("model.onnx", split(np.arange(8) % 3), "top1", 0.1) == ""
    assert guessing_note("model.onnx", TEN_CLASSES, "agreement", 0.1) == ""
    assert guessing_note("model.onnx", split(np.zeros(99, np.int64)), "top1", 1.0) == ""
