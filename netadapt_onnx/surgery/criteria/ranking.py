"""Ranking over all groups at once: which channels of the whole model matter least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.surgery.criteria.scores import Criterion
from netadapt_onnx.surgery.criteria.selection import class_totals, importance
from netadapt_onnx.surgery.trace import Trace


@dataclass(frozen=True)
class Block:
    """Channels of one group that go together: the group goes down to `remaining` channels.

    `channels` says how many go, `importance` is their mean.
    """

    group: str
    remaining: int
    channels: int
    importance: float


def removal_order(trace: Trace, criterion: str | Criterion = "l2", step: int | None = None) -> list[Block]:
    """All blocks that can go, in the order in which they go: least mean importance first.

    Importances are divided by their mean over the group. A group's blocks follow one another down to its floor.

    Args:
        trace: The model.
        criterion: A criterion, or the name of one.
        step: The group keeps multiples of it; its structural step alone where it is None.
    """
    scores = importance(trace, criterion, normalised=True)
    blocks: list[Block] = []
    for group in trace.prunable:
        totals = class_totals(trace, group, scores[group.name])
        ascending = np.sort(totals).repeat(group.step) / group.step
        multiple = math.lcm(step or 1, group.step)
        counts = [n for n in range(0, group.channels, multiple) if n >= group.floor]
        before = group.channels
        for remaining in reversed(counts):
            gone = ascending[group.channels - before : group.channels - remaining]
            blocks.append(Block(group.name, remaining, before - remaining, float(gone.mean())))
            before = remaining
    return sorted(blocks, key=lambda block: block.importance)


def counts_after(trace: Trace, blocks: Sequence[Block]) -> dict[str, int]:
    """The channel count of every prunable group once these blocks, a start of the removal order, are gone."""
    counts = {group.name: group.channels for group in trace.prunable}
    for block in blocks:
        counts[block.group] = min(counts[block.group], block.remaining)
    return counts


def at_share(trace: Trace, order: Sequence[Block], share: float) -> dict[str, int]:
    """Counts when at most `share` of the channels of all prunable groups together go, least important first.

    A block that would exceed the share stays, and with it all that matters more in its group.
    """
    allowed = share * sum(group.channels for group in trace.prunable) + 1e-9
    gone, kept = [], set()
    for block in order:
        if block.group in kept or block.channels > allowed:
            kept.add(block.group)
            continue
        allowed -= block.channels
        gone.append(block)
    return counts_after(trace, gone)
