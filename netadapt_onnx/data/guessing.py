"""Whether an accuracy is that of guessing, as it is where labels or preprocessing are not those of the training."""

from __future__ import annotations

import math

import numpy as np

from netadapt_onnx.data.dataset import Split

# An accuracy within so many standard errors of guessing cannot be told from it.
STANDARD_ERRORS = 2.0
# Fewer samples tell nothing of a model.
LEAST_SAMPLES = 20


def guessing_note(model: str, split: Split, metric: str, accuracy: float) -> str:
    """A sentence where a trained model classifies no better than its most frequent class would; else "".

    Args:
        model: What the model is called.
        split: The samples that were scored.
        metric: The metric that they were scored by.
        accuracy: The model's.
    """
    labels = split.targets() if metric == "top1" else None
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or len(labels) < LEAST_SAMPLES:
        return ""
    _, counts = np.unique(labels, return_counts=True)
    guess = counts.max() / len(labels)
    if len(counts) < 2 or accuracy > guess + STANDARD_ERRORS * math.sqrt(guess * (1 - guess) / len(labels)):
        return ""
    return (
        f"{model} is right on {accuracy:.1%} of the samples, and always naming the most frequent class on "
        f"{guess:.1%}: check that classes are numbered, and inputs resized and scaled, as in the model's training"
    )
