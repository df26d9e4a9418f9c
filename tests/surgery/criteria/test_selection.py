"""Importances by any criterion, of any model."""

from __future__ import annotations

import numpy as np
import pytest

import models
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery.criteria.selection import MEASURED, importance
from netadapt_onnx.surgery.criteria.weights import CRITERIA
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.data_criteria import criterion_on
from tracing import trace_model


@pytest.mark.parametrize("name", models.ALL)
def test_every_criterion_scores_every_model(name: str) -> None:
    traced = trace_model(models.ALL[name]())
    specs = traced.folded.specs
    rng = np.random.default_rng(0)
    inputs: Arrays = {k: rng.standard_normal((32, *shape[1:])).astype(dtype) for k, (shape, dtype) in specs.items()}
    for criterion in (*MEASURED, *(c for c in CRITERIA if c != "bn-scale")):
        scores = importance(traced, criterion_on(criterion, Split(inputs)), normalised=True)
        for group in traced.prunable:
            assert np.isfinite(scores[group.name]).all()
            assert np.abs(scores[group.name]).mean() == pytest.approx(1.0)
            if criterion in MEASURED:
                assert len(np.unique(scores[group.name])) > 1


def by_index(trace: Trace, group: Group) -> np.ndarray:
    """A caller's own criterion with a known answer: later channels matter more, twice as much in `conv2`."""
    return np.arange(1, group.channels + 1) * (2.0 if group.name == "conv2" else 1.0)


def test_importances_of_groups_compare() -> None:
    traced = trace_model(models.plain((8, 16)))
    scores = importance(traced, by_index, normalised=True)
    np.testing.assert_allclose(scores["conv1"], np.arange(1, 9) / 4.5)
    np.testing.assert_allclose(scores["conv2"], np.arange(1, 17) / 8.5)
