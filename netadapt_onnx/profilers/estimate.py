"""What a measurement says of a model: its time, an interval that covers what disturbed the device, and a verdict.

On a quiet device a session's median is what users see, and it is what counts. On a busy one medians mislead: with eight
busy processes on two cores an EfficientNet-Lite0 cut to 0.42x came to 0.29x to 0.51x, each with a narrow interval. The
mean of a session's fastest tenth of runs came to 0.41x to 0.42x all the time (Xeon, two cores): it counts then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from netadapt_onnx.profilers.agent import median_interval
from netadapt_onnx.profilers.statistics import (
    Ratio,
    disturbance_of_ratio,
    interdecile_ratio,
    interruption,
    reference_fastest_ms,
)

# Times of a quiet device vary by less: between fresh sessions of one model, between a session's median and its fastest
# runs, and between now and earlier in the run. Seen on shared machines that are quiet: up to 5%, and 8% for models that
# take less than a millisecond; beside eight busy processes from 14% to 20 times.
NOISE_FLOOR = 0.1

Verdict = Literal["met", "missed", "unclear"]


@dataclass(frozen=True)
class Estimate:
    """A model's time, in ms or as a share of the reference's, between `low` and `high`.

    `disturbance` is the share by which times varied; up to `NOISE_FLOOR` the device was quiet, unless it was `crowded`:
    other processes left no processor free.
    """

    value: float
    low: float
    high: float
    disturbance: float
    crowded: bool = False

    @property
    def quiet(self) -> bool:
        """Whether nothing disturbed the measurement."""
        return self.disturbance <= NOISE_FLOOR and not self.crowded

    @property
    def precise(self) -> bool:
        """Whether the interval is no wider than what a quiet device's times vary by."""
        return self.high <= (1 + NOISE_FLOOR) * self.value and self.low >= (1 - NOISE_FLOOR) * self.value

    def excludes(self, value: float) -> bool:
        """Whether the time is another than `value`, and more certainly so than the interval is wide."""
        distance = max(self.low - value, value - self.high)
        return distance > 0 and (self.precise or distance > self.high - self.low)

    def times(self, unit: float) -> Estimate:
        """The same estimate in another unit."""
        return replace(self, value=self.value * unit, low=self.low * unit, high=self.high * unit)

    def verdict(self, limit: float) -> Verdict:
        """Whether the time is within `limit`.

        It is met if all of the interval is. On a quiet device it is missed otherwise, since the upper end is what has
        to hold; on a disturbed one an interval that contains the limit decides nothing.
        """
        if self.high <= limit:
            return "met"
        return "missed" if self.quiet or self.low > limit else "unclear"


def estimate(measurement: Ratio, usual_ms: float | None, *, relative: bool) -> Estimate:
    """Estimate a model's time from a measurement in turn with its reference.

    Args:
        measurement: the model's sessions and the reference's, in pairs.
        usual_ms: the time that the reference's fastest runs usually take (None: unknown). Where they are slower now,
            the interval grows by as much: what slows a device does not slow all models alike.
        relative: whether the estimate is a share of the reference's time; otherwise it is in ms.
    """
    slowdown = max(0.0, reference_fastest_ms(measurement) / (usual_ms or np.inf) - 1)
    disturbance = max(slowdown, interruption(measurement), interdecile_ratio(measurement.sessions_ms[1]))
    timing = measurement.model
    share = (measurement.median, *measurement.ci95)
    middle, low, high = share if relative else (timing.median_ms, *timing.ci95)
    widening = 1 + slowdown if slowdown > NOISE_FLOOR else 1.0
    fastest, references = map(np.asarray, measurement.undisturbed_ms)
    crowded = disturbance_of_ratio(measurement).crowded
    if (disturbance > NOISE_FLOOR or crowded) and fastest.size:
        samples = fastest / references if relative else fastest
        middle, (low, upper) = float(np.median(samples)), median_interval(samples)
        # In ms: on a quiet device it takes no less than the fastest runs of the fastest session do now, which may have
        # been slowed by what makes sessions differ, and no longer than it does now.
        low, high = (
            (low, upper) if relative else (float(fastest.min()) / (1 + interdecile_ratio(fastest)), high / widening)
        )
    return Estimate(middle, low / widening, high * widening, disturbance, crowded)
