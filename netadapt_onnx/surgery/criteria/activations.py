"""Criteria that look at activations, which onnxruntime computes without torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery.calibration import activations
from netadapt_onnx.surgery.criteria.scores import ACTIVATION, Criterion, RememberedScores
from netadapt_onnx.surgery.reduction_sites import reduction_sites
from netadapt_onnx.surgery.trace import Trace


def activation_criterion(inputs: Callable[[], Arrays]) -> Criterion:
    """The criterion `activation`.

    Args:
        inputs: Returns the inputs, samples first; it is called once a model, so that they need not stay in memory.
    """
    return RememberedScores(ACTIVATION, lambda trace: mean_activation(trace, inputs()))


def mean_activation(trace: Trace, inputs: Arrays) -> np.ndarray:
    """Mean absolute activation of each root label where channels are summed over, averaged over those places.

    (Polyak & Wolf, IEEE Access 2015; Molchanov et al., ICLR 2017; near to the share of zeros of Hu et al., 2016.)

    Args:
        trace: The model.
        inputs: The inputs, samples first.

    Returns:
        The scores by root label, (labels,).

    Raises:
        NetadaptError: If there are too few inputs for a batch that the model fixes.
    """
    sites = reduction_sites(trace)
    sums = [np.zeros(len(site.axis_labels)) for site in sites]
    positions = [0] * len(sites)
    for _, arrays in activations(trace, inputs, [site.tensor for site in sites]):
        for i, site in enumerate(sites):
            values = np.abs(np.moveaxis(arrays[site.tensor], site.axis, 0)).reshape(len(site.axis_labels), -1)
            sums[i] += values.sum(axis=1, dtype=np.float64)
            positions[i] += values.shape[1]
    if not all(positions):
        batch = next(iter(trace.folded.specs.values()))[0][0]
        raise NetadaptError(
            f"--data holds fewer training samples than the model's fixed batch of {batch}", code="invalid-data"
        )
    total, counts = np.zeros(len(trace.roots)), np.zeros(len(trace.roots))
    for site, summed, count in zip(sites, sums, positions, strict=True):
        np.add.at(total, site.axis_labels, summed / count)
        np.add.at(counts, site.axis_labels, 1)
    return total / np.maximum(counts, 1)
