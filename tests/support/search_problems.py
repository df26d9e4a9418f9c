"""Searches over groups without a model: resources and accuracy are functions of the widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from netadapt_onnx.search.channel_choices import ladder
from netadapt_onnx.search.netadapt import Accepted, Problem
from netadapt_onnx.search.schedule import Schedule


def problem(
    channels: Mapping[str, int],
    resources: Callable[[Mapping[str, int]], dict[str, float]],
    limits: Mapping[str, float],
    accuracy: Callable[[Mapping[str, int]], float | None],
    *,
    step: int = 1,
    structural: int = 1,
    corrections: Sequence[Mapping[str, float]] = (),
    **settings: object,
) -> Problem:
    """A search whose proposals score `accuracy`, and whose accepted iterations measure `corrections` in turn."""
    groups = [SimpleNamespace(name=n, channels=c, step=structural, floor=structural) for n, c in channels.items()]
    queue = list(corrections)

    def accept(widths: Mapping[str, int]) -> Accepted:
        value = accuracy(widths)
        assert value is not None
        return Accepted(value, value, queue.pop(0) if queue else {})

    base = Problem(
        ladders=[ladder(cast(Any, g), step) for g in groups],
        resources=resources,
        limits=limits,
        start=Accepted(accuracy(channels) or 0.0, accuracy(channels) or 0.0, {}),
        rank=lambda _, proposals: [accuracy(p.widths) for p in proposals],
        accept=lambda _, proposal: accept(proposal.widths),
        schedule=Schedule(),
    )
    return replace(base, **settings)  # type: ignore[arg-type]
