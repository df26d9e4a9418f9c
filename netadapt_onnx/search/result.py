"""What an adaptation returns: the JSON contract of `adapt` as frozen data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from netadapt_onnx.common.resources import Resources
from netadapt_onnx.data.metrics import AccuracyChange
from netadapt_onnx.profilers.quantize import Precision
from netadapt_onnx.search.presets import DEFAULT_PRESET

# The `stopped` of a run on a device that was too busy to decide, and the first part of its journal entry.
UNDECIDED: Literal["could-not-judge"] = "could-not-judge"
# met: within every budget; nothing-to-do: it was from the start; no-way-down: no group can lose more channels;
# accuracy-floor: the next step would have gone below --min-accuracy; missed: measured too slow after all that was cut
# once more; could-not-judge: the device was too busy to tell.
Stopped = Literal[
    "met",
    "missed",
    "could-not-judge",
    "nothing-to-do",
    "max-iterations",
    "max-time",
    "accuracy-floor",
    "no-way-down",
]


@dataclass(frozen=True)
class OnDevice:
    """Accuracy of what is deployed by a device's own kernels, and by this machine's, on the same samples."""

    accuracy: float
    here: float
    samples: int


@dataclass(frozen=True)
class Deployed:
    """What runs in the place of the float model, in `file` beside it; accuracy and size before and after.

    Latencies and energy are measured of it; every other resource is the float model's. `accuracy` is that of this
    machine's kernels, `devices` has that of every other device that it was measured on.
    """

    precision: Precision
    file: str
    size_bytes: tuple[int, int]
    accuracy: AccuracyChange
    devices: Mapping[str, OnDevice] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """The final model against the original, measured in turn in fresh sessions; times in ms.

    `ratio` is result / original, `ci95` its 95% interval, `predicted_ms` what the table says of the result.
    `disturbance` is the share by which times varied on a busy device, 0 on a quiet one: then times are those of the
    fastest runs, and the intervals cover what slowed them.
    """

    before_ms: float
    after_ms: float
    after_ci95_ms: tuple[float, float]
    ratio: float
    ci95: tuple[float, float]
    predicted_ms: float
    sessions: int
    disturbance: float = 0.0

    def met(self, limit: float, *, relative: bool) -> bool | None:
        """Whether it is within a limit, a share of the original's time if `relative`, or ms; None: nobody can tell."""
        low, high = self.ci95 if relative else self.after_ci95_ms
        if high <= limit:
            return True
        return None if self.disturbance and low <= limit else False


@dataclass(frozen=True)
class Share:
    """What is left of a measured resource, and the 95% interval of that."""

    ratio: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Compared:
    """Another measured resource of the final model against the original: energy in mJ, or a program's own unit."""

    before: float
    after: float
    after_ci95: tuple[float, float]
    ratio: float
    ci95: tuple[float, float]
    predicted: float
    measurements: int


@dataclass(frozen=True)
class Limit:
    """One budget and how it ended: `value` is what was compared with `limit` (for latency the interval's upper end).

    `met` is None where `value` is a prediction and no device could be asked, or the device was too busy to tell.
    """

    budget: str
    limit: float
    value: float
    met: bool | None

    @property
    def resource(self) -> str:
        """What is limited, perhaps of a named device: `latency@pi`."""
        return self.budget.partition("=")[0]


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search came to, for one target or for a whole run.

    Attributes:
        met: Whether every budget holds; None where a latency could only be predicted, or the device was too busy.
        before, after: What the file as given costs, and the result.
        accuracy: Before and after, on the split that no search sees.
        iterations: How many accepted iterations the model is from.
        model: The written file.
        stopped: Why the search ended.
        limits: Each budget, and how it ended.
        groups: Channels before and after, by group.
        latencies: By device, what was measured of the model against the original.
        measured: Energy, and what a program of the user measured.
        notes: What else to know.
        deployed: The int8 form, if that is deployed.
        removed: Residual branches that went.
        normalised: What the file costs uncut but normalised, where measurements tell the two apart.
        normalising: By resource, what normalising alone leaves, where measurements tell.
    """

    met: bool | None
    before: Resources
    after: Resources
    accuracy: AccuracyChange
    iterations: int
    model: Path
    stopped: Stopped
    limits: tuple[Limit, ...]
    groups: Mapping[str, tuple[int, int]]
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    measured: Mapping[str, Compared] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    deployed: Deployed | None = None
    removed: tuple[str, ...] = ()
    normalised: Resources | None = None
    normalising: Mapping[str, Share] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TargetResult(SearchResult):
    """What one target came to. `budget`: all of its limits; `validation`: the accuracy that the search sees."""

    budget: str
    validation: float


@dataclass(frozen=True, kw_only=True)
class AdaptResult(SearchResult):
    """The outcome of `adapt`: of its tightest target, and of all of them in `models`.

    `before` is the file as given. `normalised` is what it costs uncut but normalised, and `normalising`, by resource,
    what that alone leaves, where measurements tell the two apart; else None and empty.

    `groups`: channels before and after; `removed`: residual branches that went; `stopped`: why; `notes`: what else to
    know.

    `met` is None where a latency could only be predicted, or the device was too busy to tell; `latencies` has every
    device's, `latency` the first; `measured` has energy and what a program of the user measured. `deployed`: the int8
    form, if that is deployed. `seconds`: over all resumes.
    """

    seconds: float
    latency: Latency | None = None
    models: tuple[TargetResult, ...] = ()

    @classmethod
    def of_targets(cls, models: Sequence[TargetResult], seconds: float, notes: Sequence[str]) -> AdaptResult:
        """The result of a run: that of its tightest target that was gone for, the last of `models`."""
        last = models[-1]
        values: dict[str, Any] = {one.name: getattr(last, one.name) for one in fields(SearchResult)}
        values["notes"] = tuple(dict.fromkeys((*notes, *last.notes)))
        latency = next(iter(last.latencies.values()), None)
        return cls(**values, seconds=seconds, latency=latency, models=tuple(models))


@dataclass(frozen=True)
class Planned:
    """A proposal of the first iteration: a group's channels now and then, and what the model would cost."""

    group: str
    channels: tuple[int, int]
    resources: Mapping[str, float]


@dataclass(frozen=True)
class DryRun:
    """What the first iteration would try: it brings `driver` to `target` or below. `skipped` groups cannot.

    `options` are those of the preset, as they would be used; `tables` the latency tables that were measured and kept,
    by resource.
    """

    driver: str
    target: float
    current: Mapping[str, float]
    proposals: tuple[Planned, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...] = ()
    preset: str = DEFAULT_PRESET
    options: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Path] = field(default_factory=dict)
