"""The time that `--max-time` leaves to the parts of a run.

Nothing begins that is expected not to fit, and what has begun overruns by one proposal at most. The clock decides where
a run stops and how long it measures and trains, never which proposal wins: an iteration whose proposals could not all
be evaluated is dropped, and `--resume` goes on with those that were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.run_directory.run import Run

# Work that takes less is not worth stopping for.
NEGLIGIBLE_S = 1.0
# At most this share of the time is reserved for what comes after the search; a table gets at most that share of the
# time that is left.
RESERVED, TABLE_SHARE = 0.25, 0.5


class TimeIsOver(Exception):
    """Raised between two proposals; its text says what is not done."""


class TimeLimit:
    """The time that a run has left for its search, and what its parts have taken so far."""

    def __init__(self, run: Run) -> None:
        """Count the time of `run`; `over` says why there is none left, once that is so."""
        self._run = run
        self._reserved_s = 0.0
        self._iteration_s: float | None = None
        self.over = ""

    @property
    def left_s(self) -> float:
        """Seconds left, less what is reserved; infinite without a limit."""
        return self._run.left_s() - self._reserved_s

    def reserve(self, seconds: float) -> None:
        """Reserve time for the measurements and evaluations of the result."""
        self._reserved_s = max(self._reserved_s, min(seconds, RESERVED * self._run.max_time_s))

    def iterations(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps of a search as long as another is expected to fit; `over` then says why there are no more.

        The first one in a process begins whatever the time, so that every resume gets on.
        """
        while self._iteration_s is None or self._iteration_s <= self.left_s:
            began = self._run.seconds()
            try:
                step = next(steps, None)
            except TimeIsOver as error:
                self.over = f"--max-time is used up ({error}); go on with --resume and a larger --max-time"
                return
            if step is None:
                return
            self._iteration_s = self._run.seconds() - began
            yield step
        self.over = "--max-time is used up; go on with --resume and a larger --max-time"

    def proposals(self, total: int, what: str) -> Callable[[int], None]:
        """A function to call with the number of proposals that are done, each time that it grows.

        Args:
            total: The number of proposals.
            what: What is dropped where the time does not suffice.

        Returns:
            A function that raises TimeIsOver once the time is over, unless the other proposals are expected to overrun
            by no more than one of them.
        """
        began = self._run.seconds()
        first: tuple[int, float] | None = None

        def done(number: int) -> None:
            nonlocal first
            elapsed_s = self._run.seconds() - began
            first = first or (number, elapsed_s)
            rest_s = elapsed_s / max(1, number - first[0] + 1) * (total - number)
            if self.left_s <= 0 and number < total and rest_s > max(first[1], NEGLIGIBLE_S) + self.left_s:
                raise TimeIsOver(f"{what} is dropped, {number} of its {total} proposals were tried")

        return done
