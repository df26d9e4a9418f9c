"""What an adaptation returns: the JSON contract of `adapt` as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# met: within every budget; nothing-to-do: it was from the start; no-way-down: no group can lose more channels.
Stopped = Literal["met", "nothing-to-do", "max-iterations", "no-way-down"]


@dataclass(frozen=True)
class Resources:
    """What a model costs at batch 1, or the batch size asked for. `latency_ms`: measured median, if it was measured."""

    params: int
    macs: int
    size_bytes: int
    memory_bytes: int
    latency_ms: float | None = None


@dataclass(frozen=True)
class AccuracyChange:
    """Fractions before and after; `metric` says of what, `split` of which samples."""

    before: float
    after: float
    metric: str
    split: str


@dataclass(frozen=True)
class Latency:
    """The final model against the original, measured in turn in fresh sessions; times in ms.

    `ratio` is result / original, `ci95` its 95% interval, `predicted_ms` what the table says of the result.
    """

    before_ms: float
    after_ms: float
    after_ci95_ms: tuple[float, float]
    ratio: float
    ci95: tuple[float, float]
    predicted_ms: float
    sessions: int


@dataclass(frozen=True)
class Limit:
    """One budget and how it ended: `value` is what was compared with `limit` (for latency the interval's upper end)."""

    budget: str
    limit: float
    value: float
    met: bool


@dataclass(frozen=True)
class AdaptResult:
    """The outcome of `adapt`. `groups`: channels before and after; `stopped`: why; `notes`: what else to know."""

    met: bool
    before: Resources
    after: Resources
    accuracy: AccuracyChange
    iterations: int
    seconds: float
    model: Path
    stopped: Stopped
    limits: tuple[Limit, ...]
    groups: Mapping[str, tuple[int, int]]
    latency: Latency | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A proposal of the first iteration: a group's channels now and then, and what the model would cost."""

    group: str
    channels: tuple[int, int]
    resources: Mapping[str, float]


@dataclass(frozen=True)
class DryRun:
    """What the first iteration would try: it brings `driver` to `target` or below. `skipped` groups cannot."""

    driver: str
    target: float
    current: Mapping[str, float]
    proposals: tuple[Planned, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...] = ()
