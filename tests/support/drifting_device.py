"""Simulated machines of which a table knows the number of weights only: what a search meets there is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from netadapt_onnx.profilers.statistics import Ratio, Timing
from netadapt_onnx.profilers.table.staircase import Staircase
from netadapt_onnx.profilers.timing import TimingPlan
from netadapt_onnx.search import tables
from netadapt_onnx.search.budget_check import measurements


class DriftingDevice:
    """A simulated machine: latency grows with macs, `drift` times what the table says; the table knows macs only."""

    def __init__(self, drift: float, late: float = 1.0, alignment: int = 1) -> None:
        self.drift = drift
        self.late = late
        self.measured: list[float] = []
        self.staircase = Staircase(16, alignment)

    def predict(self, shapes: dict[str, tuple[int, ...]]) -> float:
        return sum(float(np.prod(s)) for name, s in shapes.items() if name.endswith(".weight")) / 1000

    @property
    def latency_ms(self) -> Timing:
        return Timing(10.0, (9.9, 10.1), 9)

    def ratio(
        self, proto: onnx.ModelProto, reference: onnx.ModelProto, _: Any, __: Any, plan: TimingPlan, **___: Any
    ) -> Ratio:
        sessions = plan.sessions
        small, dense = (
            sum(float(np.prod(t.dims)) for t in p.graph.initializer if t.name.endswith(".weight")) / 1000
            for p in (proto, reference)
        )
        share = self.drift * small / dense * (self.late if sessions > 5 else 1.0)
        self.measured.append(share)
        timing = Timing(10 * share, (9.9 * share, 10.1 * share), sessions)
        times = tuple((10 * share * np.linspace(0.99, 1.01, sessions)).tolist()), (10.0,) * sessions
        return Ratio(share, (0.99 * share, 1.01 * share), timing, Timing(10.0, (9.9, 10.1), sessions), times)


def on_device(monkeypatch: pytest.MonkeyPatch, device: DriftingDevice) -> None:
    """Let searches build their table and measure on this machine."""
    monkeypatch.setattr(tables, "built_table", lambda *_, **__: device)
    monkeypatch.setattr(measurements, "ratio", device.ratio)


GIVEN_MS, GAIN = 25.0, 0.4


def listed(proto: onnx.ModelProto) -> bool:
    """Whether initializers are among the inputs."""
    return len(proto.graph.input) > 1


class NormalisingDevice(DriftingDevice):
    """Runs a file whose initializers are inputs in 25 ms and its normalised form in 0.4 of that, on which it is cut."""

    def __init__(self, drift: float = 1.0, gain: float = GAIN, spread: float = 0.01) -> None:
        super().__init__(drift)
        self.gain, self.spread = gain, spread
        self.pairs: list[tuple[bool, bool]] = []

    def ratio(
        self, proto: onnx.ModelProto, reference: onnx.ModelProto, _: Any, __: Any, plan: TimingPlan, **___: Any
    ) -> Ratio:
        sessions = plan.sessions
        self.pairs.append((listed(proto), listed(reference)))
        of_widths = super().ratio(proto, reference, _, __, plan).median
        cut = 1.0 if of_widths == self.drift else of_widths  # the table's error is that of what was cut
        uncut_ms = GIVEN_MS if listed(reference) else GAIN * GIVEN_MS
        ms = cut * GIVEN_MS * (1.0 if listed(proto) else self.gain)
        times = tuple((ms * np.linspace(1 - self.spread, 1 + self.spread, sessions)).tolist()), (uncut_ms,) * sessions
        low, high = 1 - self.spread, 1 + self.spread
        timing = Timing(ms, (low * ms, high * ms), sessions)
        share = ms / uncut_ms
        return Ratio(share, (low * share, high * share), timing, Timing(uncut_ms, (uncut_ms,) * 2, sessions), times)
