"""Residual branches in a search: each is like a group of one channel, which is there (1) or gone (0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from netadapt_onnx.search.channel_choices import ChannelChoices
from netadapt_onnx.search.proposal import Widths
from netadapt_onnx.surgery.blocks import Branch


def branch_ladders(branches: Sequence[Branch]) -> tuple[ChannelChoices, ...]:
    """Which counts a branch may have."""
    return tuple(ChannelChoices(branch.name, 1, (0,), (1, 0)) for branch in branches)


def removed(branches: Sequence[Branch], widths: Widths) -> frozenset[str]:
    """The branches that are gone."""
    return frozenset(branch.name for branch in branches if not widths.get(branch.name, 1))


def branch_importances(branches: Sequence[Branch], scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What goes with each branch, by the importances of its groups' channels.

    To lose all channels of one group of a branch is to lose the branch, but for what constants it adds: it is worth
    what the least of its groups is. A branch without groups of its own has no importance.
    """
    own = {b.name: [scores[name] for name in b.groups if name in scores] for b in branches}
    return {name: np.array([min(float(s.sum()) for s in found)]) for name, found in own.items() if found}
