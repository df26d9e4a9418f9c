"""The better of two models, on a growing share of the samples that rank proposals (a race: Maron & Moore, 1994).

Whichever is behind by more than the interval of their difference on a share is given up there. Nothing depends on time
or on who evaluates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from netadapt_onnx.common.parallel import in_order
from netadapt_onnx.search.evaluator import DataEvaluator

# The shares that are looked at before all samples are, each where there are at least so many times as many samples.
SHARES = (64, 256)
WORTHWHILE = 4
# The two-sided 95% quantile of the normal distribution.
Z = 1.96


@dataclass(frozen=True)
class RankedModel:
    """A model, and its accuracy on the samples that rank proposals where all of them were looked at."""

    proto: onnx.ModelProto
    accuracy: float | None = None


def better(first: onnx.ModelProto, second: onnx.ModelProto, evaluator: DataEvaluator) -> RankedModel:
    """The model with the higher ranking accuracy, or what a share of the samples says of that; `first` if equal."""
    samples = len(evaluator.ranking)
    for share in SHARES:
        if samples < WORTHWHILE * share:
            break
        one, other = in_order(partial(evaluator.ranking_scores, count=share), (first, second))
        if one is None or other is None:
            break
        differences = one - other
        if is_decided(differences):
            return RankedModel(first if differences.mean() > 0 else second)
    accuracy, accuracy_of_second = in_order(evaluator.ranking_accuracy, (first, second))
    if accuracy_of_second > accuracy:
        return RankedModel(second, accuracy_of_second)
    return RankedModel(first, accuracy)


def is_decided(differences: np.ndarray) -> bool:
    """Whether the mean of paired differences is further from 0 than its 95% interval, Z s / sqrt(n).

    The interval is that of a paired comparison (for top-1, of two dependent proportions), with two more samples, as far
    to either side as the largest difference. Agresti & Min (2005) add such samples because the plain interval is too
    narrow where few samples differ: with them five right answers more of 64 decide nothing and six do, as by the exact
    sign test.

    Args:
        differences: The difference of two models' scores on each sample, (n,).
    """
    largest = float(np.abs(differences).max())
    padded = np.append(differences, (largest, -largest))
    return bool(abs(padded.mean()) > Z * padded.std(ddof=1) / np.sqrt(len(padded)))
