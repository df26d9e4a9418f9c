"""Progress of a search: the best model so far, and about how long the search will still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from netadapt_onnx.common.progress import Progress


class ProgressReporter:
    """Adds to every progress message the best model so far and about how long the search will take."""

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        """Report to `progress`; `clock` is in seconds."""
        self._progress = progress
        self._clock = clock
        self._began = clock()
        self._first: float | None = None
        self._so_far = ""

    def begin(self, excess: float) -> None:
        """Begin the search for a target; `excess` is the share by which the model is above the budget."""
        self._began, self._first = self._clock(), excess

    def step(self, text: str, excess: float) -> None:
        """Report an accepted model in the words `text`; `excess` is the share by which it is still above the budget."""
        removed = (self._first or 0.0) - excess
        rest = ""
        if removed > 0 and excess > 0:
            rest = f", about {duration((self._clock() - self._began) * excess / removed)} of searching left"
        self._so_far = f": {text}{rest}"

    def __call__(self, done: int, total: int, text: str) -> None:
        """Report progress with all that, unless the text has details of its own."""
        self._progress(done, total, text if ": " in text else text + self._so_far)


def excess(amounts: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """The share by which the resource furthest above its limit is above it; 0 if none is."""
    return max(0.0, *(amounts[name] / limit - 1 for name, limit in limits.items()))


def duration(seconds: float) -> str:
    """A few seconds or minutes, rounded."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
