"""The options of an adaptation that say what is searched, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from netadapt_onnx.common.budget import budget_texts
from netadapt_onnx.common.options import BUDGET, NEEDED, SEARCH, option
from netadapt_onnx.common.resources import SEARCHED
from netadapt_onnx.search.allowed_counts import (
    DEFAULT_STEP,
    Floors,
    Steps,
    floors_in_one_spelling,
    frozen_groups,
    step_in_one_spelling,
)
from netadapt_onnx.search.netadapt import Select
from netadapt_onnx.search.presets import DEFAULT_PRESET, NAMES, Preset, by_preset

if TYPE_CHECKING:
    from netadapt_onnx.surgery.criteria.scores import Criterion

Strategy = Literal["netadapt", "knapsack", "curves"]
Start = Literal["curves", "original"]
Proposals = Literal["lazy", "all"]
Portfolio = Literal["auto", "trained", "solved", "off"]
Rank = Literal["reconstruct", "finetune"]
ReductionOf = Literal["initial", "current"]


@dataclass(frozen=True)
class SearchOptions:
    """What to search: the budgets, who proposes, who wins, how far a step goes and which channel counts are allowed."""

    SECTION: ClassVar[str] = SEARCH

    budget: tuple[str, ...] = option(
        help="What the result may cost: latency=12ms, latency=0.6x, macs=20M, params=300k, size=4MB, memory=0.5x, "
        "energy=5mJ, custom=0.7x or latency@NAME=12ms. Several must all hold. latency=0.8x,0.6x makes a model for "
        "each value.",
        metavar="RESOURCE=V",
        is_repeated=True,
        section=NEEDED,
        one_spelling=partial(budget_texts, resources=SEARCHED),
    )
    preset: Preset = option(
        DEFAULT_PRESET,
        "A named set of options, each of which you can override. fast chooses all widths at once from error curves, "
        "in minutes; balanced also searches step by step; thorough evaluates every proposal and trains the best; "
        "paper is NetAdapt as it was published.",
        choices=NAMES,
        section=NEEDED,
    )
    criterion: str | Criterion = by_preset(
        "criterion",
        "How channels are ranked: by their weights (l2, l1, group-l2, fpgm, bn-scale), by the data (obs, taylor, "
        "fisher, activation), or random, first. auto is obs, without data l2, for knapsack taylor.",
        is_advanced=True,
    )
    strategy: Strategy = by_preset(
        "strategy",
        "netadapt cuts one group in each iteration and keeps the best trial; knapsack cuts all groups in a few rounds "
        "by importance and cost; curves chooses all widths at once from error curves.",
        choices=get_args(Strategy),
        is_advanced=True,
    )
    start: Start = by_preset(
        "start",
        "Where the netadapt strategy begins: at widths that error curves choose (see --start-share), or at the "
        "original. With your own steps, trained proposals or --min-accuracy it begins at the original.",
        choices=get_args(Start),
        is_advanced=True,
    )
    start_share: float | None = by_preset(
        "start_share",
        "Which share of the way to the budget the error curves of --start curves go at once. auto is 0.95 for a "
        "network that is cheap to train, 0.75 for others.",
        metavar="SHARE",
        above=0,
        at_most=1,
        is_share=True,
        is_advanced=True,
    )
    rank: Rank = by_preset(
        "rank",
        "Adapt each proposal by least squares (reconstruct) or by a short training (finetune) before it is evaluated.",
        choices=get_args(Rank),
        is_advanced=True,
    )
    select: Select = by_preset(
        "select",
        "Which proposal wins an iteration: the one that loses the least accuracy per resource saved (ratio), or the "
        "one with the highest accuracy.",
        choices=get_args(Select),
        is_advanced=True,
    )
    proposals: Proposals = by_preset(
        "proposals",
        "Evaluate only the proposals that could win, judging by what they lost in earlier iterations (lazy), or all.",
        choices=get_args(Proposals),
        is_advanced=True,
    )
    draws: int = by_preset(
        "draws",
        "Where error curves choose widths, draw the groups' losses so often at random around the best ones, and "
        "evaluate the widths that follow.",
        metavar="N",
        at_least=0,
        is_advanced=True,
    )
    portfolio: Portfolio = by_preset(
        "portfolio",
        "At the end, compare the search's widths with uniform ones and with those of other methods: after a short "
        "training (trained), after reconstruction alone (solved), or not at all (off). auto is trained if the run "
        "trains at all, otherwise solved.",
        choices=get_args(Portfolio),
        is_advanced=True,
    )
    init_reduction_ratio: float = option(
        0.025,
        "Share of the resource that the first iteration removes.",
        above=0,
        at_most=1,
        is_share=True,
        is_advanced=True,
    )
    decay: float = option(
        0.96,
        "Each iteration removes this share of what the one before it removed.",
        above=0,
        at_most=1,
        is_share=True,
        is_advanced=True,
    )
    init_reduction: str | float | None = option(
        None,
        "What the first iteration removes as an amount, e.g. 0.5ms, 2M or 0.05x, instead of --init-reduction-ratio.",
        metavar="AMOUNT",
        is_advanced=True,
    )
    reduction_of: ReductionOf = option(
        "initial",
        "Iterations remove shares of the original's resource (initial) or of what is left (current).",
        choices=get_args(ReductionOf),
        is_advanced=True,
    )
    step: Steps = option(
        None,
        "Channel counts are multiples of N, or of the latency table's own steps (auto); OP=N is for the layers of one "
        "operator, e.g. Gemm=64.",
        metavar="N|auto|OP=N",
        is_repeated=True,
        default_text=f"auto with a latency budget, otherwise and with paper {DEFAULT_STEP}",
        one_spelling=step_in_one_spelling,
    )
    min_channels: int = option(1, "No group becomes narrower than this.", at_least=1, section=BUDGET, is_advanced=True)
    freeze: Sequence[str] = option(
        (),
        "Do not prune this group of layers (`inspect` lists them); * and ? match any name.",
        metavar="GROUP",
        section=BUDGET,
        is_repeated=True,
        one_spelling=frozen_groups,
    )
    floor: Floors = option(
        (),
        "Keep at least so many channels, or such a share of them (0.5x), in this group.",
        metavar="GROUP=32",
        section=BUDGET,
        is_advanced=True,
        is_repeated=True,
        one_spelling=floors_in_one_spelling,
    )
    finalists: int = by_preset(
        "finalists",
        "Train the K best proposals of each iteration for a short time, and choose the winner by that. On a network "
        "that is too costly for it, all of their layers are solved in order instead.",
        metavar="K",
        at_least=0,
        is_advanced=True,
    )
    prune_small: bool = option(
        False, "Cut groups that cannot reach an iteration's target alone as far as they can go.", is_advanced=True
    )
    keep_blocks: bool = by_preset(
        "keep_blocks",
        "Keep all residual branches. By default the search also tries to remove whole residual branches.",
        flag="--keep-blocks/--no-keep-blocks",
    )
    allow_block_removal: bool = option(
        False, "Refuse a model that has no residual branch which can be removed.", is_advanced=True
    )
