"""Calibration inputs and targets of a run."""

from __future__ import annotations

import numpy as np
import pytest

import models
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.search import calibrations
from netadapt_onnx.search.calibrations import Calibrations
from netadapt_onnx.surgery.reconstruct.gram import Targets, original_targets
from netadapt_onnx.surgery.trace import Trace
from tracing import trace_model


def split(samples: int) -> Split:
    return Split({"image": np.random.default_rng(0).standard_normal((samples, 3, 16, 16)).astype(np.float32)})


def test_a_calibration_is_the_same_for_every_caller_and_as_it_is_computed_anew() -> None:
    trace = trace_model(models.residual())
    kept = Calibrations(split(20), 0)
    inputs, targets = kept.of_original(trace, 8)
    again = kept.of_original(trace, 8)
    assert again[1] is targets
    assert again[0]["image"] is inputs["image"]
    others, fresh = kept.of(trace, 8)
    np.testing.assert_array_equal(inputs["image"], others["image"])
    kept.rest()
    assert targets.outputs.keys() == fresh.outputs.keys()
    for name, values in targets.outputs.items():
        np.testing.assert_array_equal(values, fresh.outputs[name])


def test_calibrations_that_come_to_the_same_samples_and_positions_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few samples all are taken; where their positions differ, the inputs are still the same."""
    computed: list[int] = []

    def counted(trace: Trace, inputs: Arrays, seed: int, samples: int) -> Targets:
        computed.append(samples)
        return original_targets(trace, inputs, seed, samples)

    monkeypatch.setattr(calibrations, "original_targets", counted)
    trace = trace_model(models.residual())
    kept = Calibrations(split(20), 0)
    few, many, all_of_them = (kept.of_original(trace, samples) for samples in (64, 512, 1024))
    assert few[0]["image"] is many[0]["image"] is all_of_them[0]["image"]
    assert few[1].per_image < many[1].per_image < all_of_them[1].per_image
    assert len(computed) == 3
    monkeypatch.setattr(calibrations, "positions_per_image", lambda *_: 7)
    kept = Calibrations(split(20), 0)
    assert kept.of_original(trace, 512)[1] is kept.of_original(trace, 1024)[1]
    assert len(computed) == 4
