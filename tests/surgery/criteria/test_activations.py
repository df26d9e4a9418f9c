"""The activation criterion against the activations themselves."""

from __future__ import annotations

import numpy as np

import models
from criterion_cases import images
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.surgery.criteria.activations import mean_activation
from tracing import trace_model


def test_activation_is_the_mean_size_of_what_consumers_see() -> None:
    traced = trace_model(models.residual())
    x = images(100)
    seen = run(session(traced.folded.proto, outputs=["relu1_out", "relu2_out"]), {"image": x})
    inner = np.abs(seen["relu2_out"]).mean((0, 2, 3))
    scores = mean_activation(traced, {"image": x})
    np.testing.assert_allclose(scores[traced.members["conv2"]], inner, rtol=1e-5)
    stem = run(session(traced.folded.proto, outputs=["relu1_out", "relu3_out", "flatten1_out"]), {"image": x[:64]})
    means = [np.abs(v).mean(tuple(k for k in range(v.ndim) if k != 1)) for v in stem.values()]
    scores = mean_activation(traced, {"image": x[:64]})
    np.testing.assert_allclose(scores[traced.members["conv1"]], np.mean(means, axis=0), rtol=1e-5)
