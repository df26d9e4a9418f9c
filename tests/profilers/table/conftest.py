"""The network whose random-width models tables are built from."""

from __future__ import annotations

import pytest

from models import residual
from netadapt_onnx.profilers.random_widths import Draw, RandomWidthModel, random_widths
from netadapt_onnx.surgery.trace import Trace
from tracing import trace_model


@pytest.fixture(scope="module")
def traced() -> Trace:
    return trace_model(residual(32, size=8))


@pytest.fixture(scope="module")
def reference(traced: Trace) -> RandomWidthModel:
    """The network uncut."""
    return RandomWidthModel(traced.folded.proto, traced.folded.shapes)


@pytest.fixture(scope="module")
def draw(traced: Trace) -> Draw:
    """A random generator's random widths."""
    return random_widths(traced)
