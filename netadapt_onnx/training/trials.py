"""Tries settings on the network that is to be trained, in a process of its own where they can do no harm.

Kernels of a number type or a memory layout may be missing on a processor, give wrong numbers, or kill the process.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from netadapt_onnx.common.child_process import ONE_HEAP, ONE_THREAD, ChildProcess, Death, packed
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.settings import Settings, TrialError
from netadapt_onnx.training.trial_process import Failure, Trial, TrialNetwork, serve

# How long a trial may take. The first one cannot be foreseen: a large network on a slow and busy machine. Later ones
# are hopeless after so many times the longest one before, and never sooner than after LEAST_S.
FIRST_S = 3600.0
LEAST_S = 120.0
HOPELESS = 20.0
# How often a process is started that ends before it has begun.
STARTS = 3


class Child(Protocol):
    """A process that trials run in; see `ChildProcess`."""

    def send(self, message: bytes) -> None: ...  # noqa: D102

    def receive(self, timeout_s: float | None = None) -> bytes: ...  # noqa: D102

    def death(self) -> Death: ...  # noqa: D102

    def kill(self) -> None: ...  # noqa: D102


# Processes without a trial, for this program's next choice: torch takes seconds to import. They end when none comes.
_idle: list[Child] = []


def _start() -> Child:
    return _idle.pop() if _idle else ChildProcess(serve, (os.devnull,), ONE_THREAD | ONE_HEAP)


class _GoneError(Exception):
    """A process had ended before it got a message."""


class Trials:
    """Tries one network; a context manager that owns a process, which is started anew whenever a trial killed it."""

    def __init__(self, network: TrialNetwork, start: Callable[[], Child] = _start) -> None:
        self._network = network
        self._start = start
        self._child: Child | None = None
        self._local: Trial | None = None
        self._failures: dict[Settings, TrialError] = {}
        self._prepared: set[Settings] = set()
        self._longest_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._local is not None:
            self._local.__exit__(kind, error, trace)
        child, self._child = self._child, None
        if child is None:
            return
        if not _idle and (error is None or isinstance(error, NetadaptError | MemoryError)):
            with suppress(OSError):
                child.send(packed(None))
                child.receive(LEAST_S)
                child.receive(LEAST_S)
                _idle.append(child)
        else:
            child.kill()

    def prepare(self, settings: Settings) -> Callable[[], float]:
        """A function that runs a training step in some settings and returns its seconds, or raises TrialError."""
        return partial(self._step, settings)

    def _step(self, settings: Settings) -> float:
        plain = replace(settings, dtype="float32", channels_last=False)
        if plain not in (settings, *self._failures, *self._prepared):  # whose gradients are the reference
            with suppress(TrialError):
                self._try(plain)
        return self._try(settings)

    def _try(self, settings: Settings) -> float:
        if settings in self._failures:
            raise self._failures[settings]
        try:
            seconds = self._step_seconds(settings)
        except TrialError as error:
            self._failures[settings] = error
            raise
        self._prepared.add(settings)
        return seconds

    def _step_seconds(self, settings: Settings) -> float:
        while True:
            if self._child is None and self._local is None:
                self._begin()
            if self._local is not None:
                return self._local.step(settings)
            try:
                answer = self._exchange(packed(settings))
            except _GoneError:  # it got no message for so long that it ended
                continue
            if isinstance(answer, Failure):
                raise TrialError(answer.reason, memory=answer.memory, error=answer.error)
            return float(answer)

    def _begin(self) -> None:
        """Hand the network to a process. What the user's own functions hold may not fit into a message.

        Then a projection stands for the loss; where an operator's function is to blame, or no process can be started,
        the trials run in this process.
        """
        for network in (self._network, replace(self._network, loss=None, labels=None)):
            try:
                message = packed(network)
            except Exception:  # pickle raises whatever an object's own methods do
                continue
            for _ in range(STARTS):
                try:
                    self._child = self._child or self._start()
                    answer = self._exchange(message)
                except (_GoneError, AssertionError):  # a daemon of multiprocessing's may have no children
                    continue
                if answer is None:
                    self._network = network
                    return
                break
        self._lose()
        self._local = Trial(self._network).__enter__()

    def _exchange(self, message: bytes) -> Any:
        """The process's answer to a message.

        Raises:
            TrialError: It dies of the message, or takes too long.
            _GoneError: It had ended before.
        """
        child = self._child
        assert child is not None
        try:
            child.send(message)
            child.receive(FIRST_S)
        except (EOFError, OSError):
            self._lose()
            raise _GoneError from None
        limit = FIRST_S if not self._longest_s else max(LEAST_S, HOPELESS * self._longest_s)
        began = time.monotonic()
        try:
            answer = pickle.loads(child.receive(limit))
        except TimeoutError:
            self._lose()
            raise TrialError(f"it was not done after {limit:.0f} s") from None
        except (EOFError, OSError):
            raise self._died(child) from None
        self._longest_s = max(self._longest_s, time.monotonic() - began)
        return answer

    def _died(self, child: Child) -> TrialError:
        self._child = None
        self._prepared.clear()
        death = child.death()
        return TrialError(f"its process died {death.how}", memory=death.killed)

    def _lose(self) -> None:
        child, self._child = self._child, None
        self._prepared.clear()
        if child is not None:
            child.kill()
