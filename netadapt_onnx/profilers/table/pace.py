"""How a build shares its time among batches of models."""

from __future__ import annotations

from dataclasses import dataclass

# Of its share of the cap a batch gets at least this much: where copying files to a device takes most of the time, fewer
# models in more rounds are worth more than many in three.
LEAST_SHARE = 0.25


@dataclass(frozen=True)
class Pace:
    """What a build knows of its time before it measures the next batch.

    Attributes:
        time_cap_s: the seconds that the build has.
        batches: how many batches there are in all.
        remaining: how many of them are still to be measured.
        needed: how many of these a table needs at least.
        used_s: the seconds that were used.
        overhead_s: the seconds that a batch takes besides measuring: files are written and copied, processes start.
    """

    time_cap_s: float
    batches: int
    remaining: int
    needed: int
    used_s: float
    overhead_s: float

    @property
    def least_s(self) -> float:
        """The seconds that a batch is measured for at least."""
        return LEAST_SHARE * self.time_cap_s / self.batches

    @property
    def fitting(self) -> int:
        """How many more batches there is time for."""
        each_s = max(1e-9, self.overhead_s + self.least_s)
        return max(0, min(self.remaining, int((self.time_cap_s - self.used_s) / each_s)))

    @property
    def over(self) -> bool:
        """Whether time is up, and the models are enough for a table."""
        return not self.needed and (self.used_s > self.time_cap_s or not self.fitting)

    @property
    def share_s(self) -> float:
        """The seconds that the next batch is measured for: as long as all that still fit."""
        number = max(1, self.needed, self.fitting)
        return max(self.least_s, (self.time_cap_s - self.used_s) / number - self.overhead_s)
