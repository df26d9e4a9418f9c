"""How one machine trains: number type, memory layout and replicas, which change a result and how long it takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from netadapt_onnx.errors import NetadaptError

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


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(settings: Settings) -> str:
    """The settings in words."""
    parts = [settings.dtype, "channels last" if settings.channels_last else "channels first"]
    parts += [f"{settings.replicas} replicas"] if settings.replicas > 1 else []
    return " ".join(parts) + ("" if settings.device == "cpu" else f" on {settings.device}")
