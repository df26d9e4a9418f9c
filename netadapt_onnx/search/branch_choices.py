"""Residual branches in a search: each is like a group of one channel, which the model has (1) or has not (0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from netadapt_onnx.search.channel_choices import ChannelChoices
from netadapt_onnx.search.proposals import Widths
from netadapt_onnx.surgery.residual_branches import Branch


def branch_choices(branches: Sequence[Branch]) -> tuple[ChannelChoices, ...]:
    """The counts that each branch may have."""
    return tuple(ChannelChoices(branch.name, 1, (0,), (1, 0)) for branch in branches)


def removed_branches(branches: Sequence[Branch], widths: Widths) -> frozenset[str]:
    """The names of the branches that a model of these widths does not have."""
    return frozenset(branch.name for branch in branches if not widths.get(branch.name, 1))


def branch_importances(branches: Sequence[Branch], scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The importance of each branch, by the importances of its groups' channels.

    To lose all channels of one group of a branch is to lose the branch, but for the constants it adds: a branch is
    worth as much as the least important of its groups. A branch without groups of its own has no importance.
    """
    own = {b.name: [scores[name] for name in b.groups if name in scores] for b in branches}
    return {name: np.array([min(float(s.sum()) for s in groups)]) for name, groups in own.items() if groups}
