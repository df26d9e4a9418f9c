"""What a model costs: the resources that results show and budgets limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What a model costs at batch 1, or the batch size asked for. `latency_ms`: measured median, if it was measured."""

    params: int
    macs: int
    size_bytes: int
    memory_bytes: int
    latency_ms: float | None = None
