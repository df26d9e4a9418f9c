"""How fast this machine trains this model: number type, memory layout and replicas, chosen by timing a few steps."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from netadapt_onnx.errors import NetadaptError

# Below this many samples per replica the fixed cost of a step outweighs the second core.
LEAST_SHARD = 32
MOST_REPLICAS = 8
# What is usually fastest (channels last, a replica per core, float32) stays unless something else wins by this much:
# where it matters the lead is larger (bfloat16: 1.8x), and two runs on one machine should choose, and train, alike.
CLEAR_WIN = 0.8
# What took so many times as long as the fastest is not timed again.
HOPELESS = 1.5
# No further round of timing begins after so many seconds.
MOST_TIMING_S = 20

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """How one machine trains. The same settings and seed repeat a training bit for bit.

    Attributes:
        dtype: The number type of layers; weights and losses stay float32.
        channels_last: The memory layout of tensors with four axes.
        replicas: Threads that each train on a share of every batch (measured, 2 cores: 1.7x; torch's own two threads
            collapse to a tenth when another process takes a core).
        device: One of torch's, "cpu" or "cuda".
    """

    dtype: Dtype = "float32"
    channels_last: bool = True
    replicas: int = 1
    device: str = "cpu"


class TrialError(Exception):
    """The reason why settings are left out. `memory`: it was too little memory; `error`: what the user can act on."""

    def __init__(self, reason: str, *, memory: bool = False, error: NetadaptError | None = None) -> None:
        super().__init__(reason)
        self.memory = memory
        self.error = error


Failures = dict[Settings, TrialError]
Prepare = Callable[[Settings], Callable[[], float]]


def choose(
    prepare: Prepare,
    batch_size: int,
    rounds: int = 5,
    gpu_dtypes: Sequence[Dtype] = (),
    log: Callable[[str], None] | None = None,
) -> Settings:
    """The fastest settings, by interleaved timing; near-ties go to float32, channels last and a replica per core.

    A GPU is taken without comparing it with the processor, and shares no batch out.

    Args:
        prepare: Returns a function that runs a training step once and returns its seconds; settings for which either
            raises TrialError are left out.
        batch_size: Samples a step.
        rounds: How often each step is timed at most.
        gpu_dtypes: Number types that a GPU computes in; empty without a GPU.
        log: Called with the reason why settings are left out.

    Raises:
        MemoryError: No settings work, for want of memory.
        NetadaptError: No settings work for another reason.
    """
    failures: Failures = {}
    gpu: list[tuple[str, Sequence[Dtype]]] = [("cuda", gpu_dtypes)] if gpu_dtypes else []
    best = None
    for device, dtypes in [*gpu, ("cpu", get_args(Dtype))]:
        layouts = [
            Settings(dtype=dtype, channels_last=last, device=device) for dtype in dtypes for last in (True, False)
        ]  # fmt: skip
        best = _fastest(layouts, prepare, rounds, failures)
        if best is not None or all(failures[one].memory for one in layouts):
            break
    replicas = min(cores(), MOST_REPLICAS, max(1, batch_size // LEAST_SHARD))
    if best is not None and best.device == "cpu" and replicas > 1:
        best = _fastest([replace(best, replicas=replicas), best], prepare, rounds, failures)
    if log is not None:
        for line in _failure_lines(failures):
            log(line)
    if best is None:
        raise _nothing_works(failures)
    return best


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(settings: Settings) -> str:
    """The settings in words."""
    parts = [settings.dtype, "channels last" if settings.channels_last else "channels first"]
    parts += [f"{settings.replicas} replicas"] if settings.replicas > 1 else []
    return " ".join(parts) + ("" if settings.device == "cpu" else f" on {settings.device}")


def _fastest(candidates: Sequence[Settings], prepare: Prepare, rounds: int, failures: Failures) -> Settings | None:
    """The first of the candidates that none beats clearly; None if none works. Errors are put among the `failures`."""
    timer = _StepTimer(prepare, failures)
    # The first step of each allocates memory and picks kernels: it is not timed.
    best_s = {candidate: math.inf for candidate in candidates if timer.seconds(candidate) is not None}
    deadline = time.monotonic() + MOST_TIMING_S
    for _ in range(rounds):
        for candidate in list(best_s):
            if _is_hopeless(candidate, best_s):
                continue
            seconds = timer.seconds(candidate)
            if seconds is None:
                del best_s[candidate]
            else:
                best_s[candidate] = min(best_s[candidate], seconds)
        if time.monotonic() > deadline:
            break
    return _clear_winner(best_s)


class _StepTimer:
    """Times steps, which are prepared once; what raises TrialError is put among the `failures`."""

    def __init__(self, prepare: Prepare, failures: Failures) -> None:
        self._prepare = prepare
        self._failures = failures
        self._steps: dict[Settings, Callable[[], float]] = {}

    def seconds(self, candidate: Settings) -> float | None:
        """What one step takes; None if it fails."""
        try:
            if candidate not in self._steps:
                self._steps[candidate] = self._prepare(candidate)
            return self._steps[candidate]()
        except TrialError as error:
            self._failures[candidate] = error
            return None


def _is_hopeless(candidate: Settings, best_s: Mapping[Settings, float]) -> bool:
    """Whether a step that was timed is so slow that timing it again is a waste."""
    return math.inf > best_s[candidate] >= HOPELESS * min(best_s.values())


def _clear_winner(best_s: Mapping[Settings, float]) -> Settings | None:
    """The first candidate, unless a later one is clearly faster."""
    chosen = next(iter(best_s), None)
    for candidate, seconds in best_s.items():
        if seconds < CLEAR_WIN * best_s[chosen or candidate]:
            chosen = candidate
    return chosen


def _failure_lines(failures: Failures) -> list[str]:
    """A line for each reason."""
    reasons: dict[str, list[str]] = {}
    for settings, error in failures.items():
        reasons.setdefault(str(error), []).append(describe(settings))
    return [f"left out of training: {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _nothing_works(failures: Failures) -> Exception:
    """The error of the plainest settings, which are the last to fail."""
    plain = failures.get(Settings(channels_last=False)) or list(failures.values())[-1]
    if plain.memory:
        return MemoryError(str(plain))
    return plain.error or NetadaptError(
        f"this model cannot be trained on this machine: {plain}",
        hint="no number type or memory layout works; another version of PyTorch may",
        code="training",
    )
