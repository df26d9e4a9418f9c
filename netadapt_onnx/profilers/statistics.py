"""How disturbed a device was while it measured: what else ran there, and how much one model's time varied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Sessions of one model whose times lie further apart than this are those of a busy machine.
SPREAD = 0.25
# Other processes that keep more than this share of the processors busy leave none to measure on.
CROWDED = 0.6
# Sessions that may be off without telling anything: the spread is that of the rest.
TAIL = 0.1


class Crowd(Protocol):
    """What a record says of other processes."""

    @property
    def others(self) -> float | None:
        """Processors that they kept busy."""

    @property
    def cores(self) -> int | None:
        """Of how many."""


class Witness(Crowd, Protocol):
    """What the record of a measured model says; `Measured` is one."""

    @property
    def median_ms(self) -> Sequence[float]:
        """Its time in each session."""

    @property
    def reference_median_ms(self) -> Sequence[float]:
        """The uncut model's time in each session; empty if it was not measured beside."""


class Comparison(Crowd, Protocol):
    """What the comparison of a model with a reference says; `Ratio` is one."""

    @property
    def sessions_ms(self) -> tuple[Sequence[float], Sequence[float]]:
        """The model's and the reference's time in each session."""


@dataclass(frozen=True)
class Disturbance:
    """`spread`: of the times of one model's sessions, relative to their median. `others`: processors, of `cores`, that
    other processes kept busy; None where nobody knows.
    """

    spread: float = 0.0
    others: float | None = None
    cores: int | None = None

    @property
    def crowded(self) -> bool:
        """Whether other processes leave no processor free."""
        return self.others is not None and self.others > CROWDED * (self.cores or 1)

    @property
    def busy(self) -> bool:
        """Whether results need a quieter machine."""
        return self.spread > SPREAD or self.crowded

    def sentence(self, device: str = "local") -> str:
        """What to tell whoever waits for the results; `device` is a device's name."""
        where, instead = ("this machine", "--device") if device == "local" else (device, "another --device")
        crowd = f", other processes use {self.others:.1f} processors" if self.crowded else ""
        return f"{where} is busy: times vary by {self.spread:.0%}{crowd}; results need a quiet machine or {instead}"

    def caution(self, table: str) -> str:
        """What to tell whoever uses a table that was built meanwhile."""
        crowd = f", other processes used {self.others:.1f} processors" if self.crowded else ""
        return (
            f"{table} was built on a busy machine: times varied by {self.spread:.0%}{crowd}; a quiet one tells better"
        )


def of_sessions(times_ms: Sequence[float], others: float | None = None, cores: int | None = None) -> Disturbance:
    """From one model's time in each session, in whatever unit."""
    if len(times_ms) < 2:
        return Disturbance(0.0, others, cores)
    low, middle, high = np.quantile(np.asarray(times_ms, np.float64), (TAIL, 0.5, 1 - TAIL))
    return Disturbance(float((high - low) / max(middle, 1e-9)), others, cores)


def of_records(records: Sequence[Witness]) -> Disturbance:
    """From what was measured: the uncut model beside all; without one, each model's own sessions, the widest."""
    others, cores = crowd(records)
    beside = [time for record in records for time in record.reference_median_ms]
    if beside:
        return of_sessions(beside, others, cores)
    spread = max((of_sessions(record.median_ms).spread for record in records), default=0.0)
    return Disturbance(spread, others, cores)


def crowd(records: Iterable[Crowd]) -> tuple[float | None, int | None]:
    """Processors that other processes kept busy while these were measured, on average, and of how many."""
    known = [(record.others, record.cores) for record in records if record.others is not None]
    return (float(np.mean([others for others, _ in known])), known[0][1]) if known else (None, None)


def of_ratio(ratio: Comparison) -> Disturbance:
    """From a comparison of two models: the spread of the reference's sessions."""
    return of_sessions(ratio.sessions_ms[1], ratio.others, ratio.cores)
