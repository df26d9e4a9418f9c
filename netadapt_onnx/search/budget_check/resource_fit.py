"""Predictions of resources that are functions of a model: a fit to models of random widths stands for a table.

A few models of random widths are measured first; a non-negative fit on what is counted of them predicts all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from netadapt_onnx.common.progress import counting
from netadapt_onnx.graph.cost import CostModel
from netadapt_onnx.profilers.random_widths import random_widths
from netadapt_onnx.profilers.statistics import Timing
from netadapt_onnx.profilers.table.nonnegative_fit import robust_nonnegative
from netadapt_onnx.search.budget_check.comparison import Value
from netadapt_onnx.surgery.trace import Trace

Once = Callable[[str, Callable[[], Any]], Any]
VERSIONS = 16
COUNTS = ("macs", "params", "memory")


@dataclass(frozen=True)
class Fitted:
    """A fit that stands for a table: it predicts a resource from counts. `original` is the uncut model's value."""

    trace: Trace
    coefficients: tuple[float, ...]
    original: float

    def predict(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The predicted resource of the model at these tensor shapes."""
        return float(np.dot(self.coefficients, fit_terms(self._count, shapes)))

    @property
    def latency_ms(self) -> Timing:
        """The uncut model's value, as a table has its latency."""
        return Timing(self.original, (self.original, self.original), 1)

    @cached_property
    def _count(self) -> CostModel:
        return CostModel(self.trace.flat.proto)


def fit_terms(count: CostModel, shapes: Mapping[str, tuple[int, ...]]) -> list[float]:
    """The terms of the fit: a constant, and the counted resources at these tensor shapes."""
    resources = count(shapes).resources
    return [1.0, *(float(resources[name]) for name in COUNTS)]


def fitted(original: Trace, resource: str, value: Value, seed: int, once: Once) -> Fitted:
    """Measure the original and models of random widths, and fit their resource to what is counted of them.

    Args:
        original: The traced model.
        resource: The resource, which the keys of the measurements begin with.
        value: Measures it.
        seed: The seed of the random widths.
        once: Remembers each value by its key, so that a killed run goes on.
    """
    draw, count = random_widths(original), CostModel(original.flat.proto)
    rows, values = [], []
    for number in counting(f"measuring {resource} of versions", range(VERSIONS + 1)):
        if number:
            version = draw(np.random.default_rng([seed, number]))
            proto, shapes = version.proto, version.shapes
        else:
            proto, shapes = original.folded.proto, original.folded.shapes
        rows.append(fit_terms(count, shapes))
        values.append(float(once(f"{resource}/version/{number}", partial(value, proto))))
    weight = np.array([3.0, *[1.0] * VERSIONS])
    coefficients = robust_nonnegative(np.array(rows), np.array(values), weight)
    return Fitted(original, tuple(coefficients.tolist()), values[0])
