"""Retries what fails on a device, with growing pauses and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.device import LOST

# Long enough for a device to start again.
RETRY_S = 180.0
LONGEST_PAUSE_S = 20.0
# Tidying up is worth this long.
TIDYING_S = 15.0
# What runs on a device that is reached may fail so many times in a row: it will not do better the next time.
MOST_FAILURES = 5


class ConnectionLostError(Exception):
    """The connection broke, or the device stopped answering: worth another try."""


class RemoteFailureError(ConnectionLostError):
    """The connection holds, and what runs on the device ended without doing its work."""


class Backoff:
    """Pauses that grow, from the first failure on until `seconds` are over or the device itself failed too often.

    After progress a new one is taken.
    """

    def __init__(
        self,
        device: str,
        seconds: float,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._device = device
        self._seconds = seconds
        self._log = log
        self._clock = clock
        self._sleep = sleep
        self._deadline: float | None = None
        self._tries = 0
        self._failures = 0

    def wait(self, error: ConnectionLostError) -> None:
        """Pause after a failure. Raises NetadaptError, which says what failed last, when there have been too many."""
        reason = error.args[-1]
        if self._deadline is None:
            self._deadline = self._clock() + self._seconds
        self._failures += isinstance(error, RemoteFailureError)
        if self._failures >= MOST_FAILURES:
            raise NetadaptError(
                f"{self._device}: measuring failed {self._failures} times in a row, the last time: {reason}",
                hint="see to the device (memory, disk, temperature) and run the same command again: it goes on",
                code="device",
            ) from error
        pause = min(LONGEST_PAUSE_S, 0.5 * 2**self._tries)
        self._tries += 1
        if self._clock() + pause > self._deadline:
            raise NetadaptError(
                f"{self._device} was lost: {reason}",
                hint="run the same command again: what was measured is kept",
                code=LOST,
            ) from error
        self._log(f"{self._device}: {reason}; trying again")
        self._sleep(pause)
