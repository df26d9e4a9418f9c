"""Uniform widths: every group keeps the same share of its channels. The baseline that no search may stay behind."""

from __future__ import annotations

from collections.abc import Sequence

from netadapt_onnx.search.allowed_counts import ChannelChoices
from netadapt_onnx.search.netadapt import met
from netadapt_onnx.search.proposals import Amounts, Widths
from netadapt_onnx.search.width_program import Predict


def largest_uniform(
    choices: Sequence[ChannelChoices], fixed: Widths, predict: Predict, limits: Amounts
) -> dict[str, int] | None:
    """The largest uniform widths whose predicted resources are within the limits; None if there are none.

    Latency does not fall with every channel, so that all shares are looked at, from the largest on.

    Args:
        choices: The channel counts that each group may have; widths are the coarse ones.
        fixed: The widths of what no share is taken of, such as residual branches: they stay.
        predict: Predicts the resources at given widths.
        limits: The most of each resource, in base units.
    """
    groups = [choice for choice in choices if choice.group not in fixed]
    shares = sorted({count / c.channels for c in groups for count in c.coarse}, reverse=True)
    for share in shares:
        widths = {c.group: fixed[c.group] if c.group in fixed else _at_share(c, share) for c in choices}
        if met(predict(widths), limits):
            return widths
    return None


def _at_share(choice: ChannelChoices, share: float) -> int:
    """The nearest coarse count to a share of a group's channels; all of them where it has no other."""
    counts = (choice.channels, *choice.coarse)
    return min(counts, key=lambda count: (abs(count - share * choice.channels), count))
