"""How far a search has come, in a few words for whoever watches it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from netadapt_onnx.common.progress import Progress


class ProgressReporter:
    """Adds to every progress message the best model so far and about how long the search will take."""

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._began = clock()
        self._first: float | None = None
        self._so_far = ""

    def begin(self, excess: float) -> None:
        """The search for a target begins; `excess` is how far above the budget it is, a share."""
        self._began, self._first = self._clock(), excess

    def step(self, text: str, excess: float) -> None:
        """A model was accepted that is `excess` above the budget still."""
        gone = (self._first or 0.0) - excess
        left = ""
        if gone > 0 and excess > 0:
            left = f", about {duration((self._clock() - self._began) * excess / gone)} of searching left"
        self._so_far = f": {text}{left}"

    def __call__(self, done: int, total: int, text: str) -> None:
        """A progress message with all that, unless it has more to say itself."""
        self._progress(done, total, text if ": " in text else text + self._so_far)


def excess(amounts: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """By which share the resource furthest above its limit is above it; 0 if none is."""
    return max(0.0, *(amounts[name] / limit - 1 for name, limit in limits.items()))


def duration(seconds: float) -> str:
    """A few seconds or minutes, rounded."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
