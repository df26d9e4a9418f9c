"""How fast this machine trains this model: number type, memory layout and replicas, chosen by timing a few steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
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


Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Settings:
    """What training on one machine depends on besides its seed. The same settings repeat a run bit for bit.

    `replicas`: threads that each train on a share of every batch (measured, 2 cores: 1.7x; torch's own two threads
    collapse to a tenth when another process takes a core). `device`: one of torch's, "cpu" or "cuda".
    """

    dtype: Dtype = "float32"
    channels_last: bool = True
    replicas: int = 1
    device: str = "cpu"


class TrialError(Exception):
    """Why settings are left out. `memory`: there was too little of it; `error`: what the user can act on."""

    def __init__(self, reason: str, *, memory: bool = False, error: NetadaptError | None = None) -> None:
        super().__init__(reason)
        self.memory = memory
        self.error = error


Failures = dict[Settings, TrialError]


def choose(
    seconds: Callable[[Settings], Callable[[], float]],
    batch_size: int,
    rounds: int = 5,
    gpu_dtypes: Sequence[Dtype] = (),
    say: Callable[[str], None] | None = None,
) -> Settings:
    """The fastest settings, by interleaved timing; near-ties go to float32, channels last and a replica per core.

    `seconds(settings)` prepares a training step and returns a function that runs it once and returns its duration;
    settings for which either raises TrialError are left out, and `say` is told why. A GPU that computes in `gpu_dtypes`
    is taken without comparing it with the processor; it shares no batch out. Raises NetadaptError if nothing is left,
    MemoryError if that is for want of memory.
    """
    failures: Failures = {}
    places: list[tuple[str, Sequence[Dtype]]] = [("cuda", gpu_dtypes)] if gpu_dtypes else []
    best = None
    for device, dtypes in [*places, ("cpu", get_args(Dtype))]:
        layouts = [
            Settings(dtype=dtype, channels_last=last, device=device) for dtype in dtypes for last in (True, False)
        ]  # fmt: skip
        best = _fastest(layouts, seconds, rounds, failures)
        if best is not None or all(failures[one].memory for one in layouts):
            break
    replicas = min(cores(), MOST_REPLICAS, max(1, batch_size // LEAST_SHARD))
    if best is not None and best.device == "cpu" and replicas > 1:
        best = _fastest([replace(best, replicas=replicas), best], seconds, rounds, failures)
    if say is not None:
        for line in _left_out(failures):
            say(line)
    if best is None:
        raise _nothing_works(failures)
    return best


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def described(settings: Settings) -> str:
    """In words."""
    parts = [settings.dtype, "channels last" if settings.channels_last else "channels first"]
    parts += [f"{settings.replicas} replicas"] if settings.replicas > 1 else []
    return " ".join(parts) + ("" if settings.device == "cpu" else f" on {settings.device}")


def _fastest(
    candidates: Sequence[Settings],
    seconds: Callable[[Settings], Callable[[], float]],
    rounds: int,
    failures: Failures,
) -> Settings | None:
    """None if none of them works; what does not is put among the `failures`."""
    steps: dict[Settings, Callable[[], float]] = {}
    best: dict[Settings, float] = {}

    def run(candidate: Settings) -> float:
        try:
            if candidate not in steps:
                steps[candidate] = seconds(candidate)
            return steps[candidate]()
        except TrialError as error:
            failures[candidate] = error
            best.pop(candidate, None)
            return float("inf")

    for candidate in candidates:
        run(candidate)  # the first step of each allocates and picks kernels
        if candidate not in failures:
            best[candidate] = float("inf")
    deadline = time.monotonic() + 20
    for _ in range(rounds):
        for candidate in list(best):
            known = best[candidate]
            if known == float("inf") or known < HOPELESS * min(best.values()):
                took = run(candidate)
                if candidate in best:
                    best[candidate] = min(known, took)
        if time.monotonic() > deadline:
            break
    chosen = next(iter(best), None)
    for candidate, took in best.items():
        if took < CLEAR_WIN * best[chosen or candidate]:
            chosen = candidate
    return chosen


def _left_out(failures: Failures) -> list[str]:
    """A line per reason."""
    reasons: dict[str, list[str]] = {}
    for settings, error in failures.items():
        reasons.setdefault(str(error), []).append(described(settings))
    return [f"left out of training: {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def _nothing_works(failures: Failures) -> Exception:
    """What to raise: of the plainest settings, which are the last to fail."""
    plain = failures.get(Settings(channels_last=False)) or list(failures.values())[-1]
    if plain.memory:
        return MemoryError(str(plain))
    return plain.error or NetadaptError(
        f"this model cannot be trained on this machine: {plain}",
        hint="no number type or memory layout works; another version of PyTorch may",
        code="training",
    )
