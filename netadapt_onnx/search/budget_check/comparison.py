"""How a model is measured beside another one: in sessions on a device, or by a function of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import onnx

from netadapt_onnx.common.progress import stage
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.profilers.device import Device
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.profilers.statistics import Ratio, ratio_of_pairs
from netadapt_onnx.profilers.timing import TimingPlan, ratio
from netadapt_onnx.search.run_directory.run import Run

# An accepted model is measured briefly; the one that is to meet the budget until its interval is narrow.
BRIEF_S, BRIEF_SESSIONS = 3.0, 5
CAREFUL_S, CAREFUL_SESSIONS = 20.0, 21
# The same in calls of a function: fewer for a brief measurement, and two if they agree to the last digit. A single pair
# would have no interval, and its noise would steer.
CAREFUL_PAIRS, BRIEF_PAIRS = 5, 3

Effort = Literal["brief", "careful"]
# The resource of a model: mJ, or a unit of the user's own.
Value = Callable[[onnx.ModelProto], float]


class Comparison(Protocol):
    """Measures a model beside a reference, in turns."""

    @property
    def device(self) -> Device | None:
        """The device that measures; None: there is none, or it is this machine."""
        ...

    def compare(self, proto: onnx.ModelProto, reference: onnx.ModelProto, effort: Effort) -> Ratio:
        """The model's resource relative to the reference's."""
        ...


@dataclass(frozen=True)
class DeviceComparison:
    """Times in pairs of fresh sessions that take turns on a device, in the time that is left to the run."""

    run: Run
    inputs: Arrays
    execution: Execution
    device: Device | None = None

    @stage("measuring beside the original")
    def compare(self, proto: onnx.ModelProto, reference: onnx.ModelProto, effort: Effort) -> Ratio:
        """The model's time relative to the reference's."""
        seconds, sessions = (CAREFUL_S, CAREFUL_SESSIONS) if effort == "careful" else (BRIEF_S, BRIEF_SESSIONS)
        return ratio(
            proto,
            reference,
            self.inputs,
            self.execution,
            TimingPlan(sessions=sessions, time_cap_s=min(seconds, max(BRIEF_S, self.run.left_s()))),
            device=self.device,
        )


@dataclass(frozen=True)
class FunctionComparison:
    """Values of a function of a model, of the model and the reference in turn."""

    value: Value
    device: None = None

    @stage("measuring beside the original")
    def compare(self, proto: onnx.ModelProto, reference: onnx.ModelProto, effort: Effort) -> Ratio:
        """The model's resource relative to the reference's."""
        pairs: list[tuple[float, float]] = []
        while len(pairs) < (CAREFUL_PAIRS if effort == "careful" else BRIEF_PAIRS):
            pairs.append((self.value(proto), self.value(reference)))
            if effort == "brief" and pairs[-1:] == pairs[-2:-1]:
                break
        return ratio_of_pairs([float(model) for model, _ in pairs], [float(other) for _, other in pairs])
