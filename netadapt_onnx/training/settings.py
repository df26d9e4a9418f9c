"""How fast this machine trains this model: number type, memory layout and replicas, chosen by timing a few steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

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


def choose(
    seconds: Callable[[Settings], Callable[[], float]],
    batch_size: int,
    rounds: int = 5,
    gpu_dtypes: Sequence[Dtype] = (),
) -> Settings:
    """The fastest settings, by interleaved timing; near-ties go to float32, channels last and a replica per core.

    `seconds(settings)` prepares a training step and returns a function that runs it once and returns its duration.
    A GPU that computes in `gpu_dtypes` is taken without comparing it with the processor; it shares no batch out.
    """
    device, dtypes = ("cuda", gpu_dtypes) if gpu_dtypes else ("cpu", get_args(Dtype))
    layouts = [
        Settings(dtype=dtype, channels_last=last, device=device) for dtype in dtypes for last in (True, False)
    ]  # fmt: skip
    best = _fastest(layouts, seconds, rounds)
    if gpu_dtypes:
        return best
    replicas = min(cores(), MOST_REPLICAS, max(1, batch_size // LEAST_SHARD))
    if replicas == 1:
        return best
    return _fastest([replace(best, replicas=replicas), best], seconds, rounds)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fastest(candidates: list[Settings], seconds: Callable[[Settings], Callable[[], float]], rounds: int) -> Settings:
    steps = [seconds(candidate) for candidate in candidates]
    for step in steps:
        step()  # the first step of each allocates and picks kernels
    best = [float("inf")] * len(steps)
    deadline = time.monotonic() + 20
    for _ in range(rounds):
        for index, step in enumerate(steps):
            if best[index] == float("inf") or best[index] < HOPELESS * min(best):
                best[index] = min(best[index], step())
        if time.monotonic() > deadline:
            break
    chosen = 0
    for index in range(1, len(candidates)):
        if best[index] < CLEAR_WIN * best[chosen]:
            chosen = index
    return candidates[chosen]
