"""A measurement of a model beside the original, and what it says of the model's resource."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from netadapt_onnx.profilers.estimate import Estimate, estimate
from netadapt_onnx.profilers.statistics import Ratio, reference_fastest_ms
from netadapt_onnx.search.result import Latency


@dataclass(frozen=True)
class Measurement(Ratio):
    """A model beside the original, and what the original's fastest runs usually took in this run until then (ms)."""

    usual_ms: float | None = None

    @property
    def reference_fastest_ms(self) -> float:
        """What the original's fastest runs took meanwhile."""
        return reference_fastest_ms(self)

    def estimate(self, *, relative: bool) -> Estimate:
        """The model's time with its interval: as a share of the original's if `relative`, otherwise in ms."""
        return estimate(self, self.usual_ms, relative=relative)


def with_usual(ratio: Ratio, usual_ms: float | None) -> Measurement:
    """A measurement, with what the original's fastest runs usually take."""
    return Measurement(**{field.name: getattr(ratio, field.name) for field in fields(Ratio)}, usual_ms=usual_ms)


def estimate_of(ratio: Ratio, *, relative: bool) -> Estimate:
    """The model's time with its interval, of a run's own measurement or of one that a table holds."""
    return estimate(ratio, ratio.usual_ms if isinstance(ratio, Measurement) else None, relative=relative)


def latency_of(ratio: Ratio, predicted: float) -> Latency:
    """A measurement as results show it, beside its prediction: on a busy device by the fastest runs."""
    share, amount = estimate_of(ratio, relative=True), estimate_of(ratio, relative=False)
    quiet = share.quiet or not ratio.undisturbed_ms[1]
    return Latency(
        before_ms=ratio.reference.median_ms if quiet else reference_fastest_ms(ratio),
        after_ms=ratio.model.median_ms if quiet else float(np.median(ratio.undisturbed_ms[0])),
        after_ci95_ms=(amount.low, amount.high),
        ratio=share.value,
        ci95=(share.low, share.high),
        predicted_ms=predicted,
        sessions=ratio.model.sessions,
        disturbance=0.0 if share.quiet else share.disturbance,
    )
