"""Presets of `adapt`: sets of options with a name. What the user gives besides wins over its preset.

`balanced` is the default: error curves go most of the way to the budget, NetAdapt's loop the rest, and several methods
compete at the end. `fast` chooses all widths at once from error curves, and evaluates a handful of models. `thorough`
evaluates every proposal, and trains the best of each iteration. `paper` is NetAdapt as it was published (Yang et al.,
ECCV 2018): L2 norms, a short training of every proposal, the highest accuracy wins, every layer keeps its block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from netadapt_onnx.common.options import option, word_of

Preset = Literal["balanced", "fast", "thorough", "paper"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "balanced": {
        "criterion": "auto",
        "strategy": "netadapt",
        "start": "curves",
        "start_share": None,
        "rank": "reconstruct",
        "select": "ratio",
        "keep_blocks": False,
        "proposals": "lazy",
        "finalists": 0,
        "draws": 8,
        "portfolio": "auto",
        "table_models": None,
        "final_effort": 1.0,
    },
    "fast": {
        "criterion": "auto",
        "strategy": "curves",
        "start": "curves",
        "start_share": None,
        "rank": "reconstruct",
        "select": "ratio",
        "keep_blocks": False,
        "proposals": "lazy",
        "finalists": 0,
        "draws": 0,
        "portfolio": "solved",
        "table_models": 32,
        "final_effort": 0.25,
    },
    "thorough": {
        "criterion": "auto",
        "strategy": "netadapt",
        "start": "curves",
        "start_share": 0.75,
        "rank": "reconstruct",
        "select": "ratio",
        "keep_blocks": False,
        "proposals": "all",
        "finalists": 3,
        "draws": 32,
        "portfolio": "auto",
        "table_models": None,
        "final_effort": 2.0,
    },
    "paper": {
        "criterion": "l2",
        "strategy": "netadapt",
        "start": "original",
        "start_share": None,
        "rank": "finetune",
        "select": "accuracy",
        "keep_blocks": True,
        "proposals": "all",
        "finalists": 0,
        "draws": 0,
        "portfolio": "off",
        "table_models": None,
        "final_effort": 1.0,
    },
}
# What takes the place of a preset's options where a function of the user's judges and there are no data to train with.
WITHOUT_DATA: Mapping[str, Any] = {
    "strategy": "netadapt",
    "start": "original",
    "rank": "reconstruct",
    "finalists": 0,
    "proposals": "all",
    "portfolio": "off",
}
DEFAULT_PRESET: Preset = "balanced"
NAMES: tuple[str, ...] = get_args(Preset)


def by_preset(name: str, help: str, **declared: Any) -> Any:
    """Declare an option whose default depends on `--preset`."""
    values = {preset: PRESETS[preset][name] for preset in NAMES}
    usual = values[DEFAULT_PRESET]
    others = {f"{preset}: {word_of(value)}" for preset, value in values.items() if value != usual}
    text = "; ".join([word_of(usual), *sorted(others)])
    return option(None, help, default_text="" if isinstance(usual, bool) else text, **declared)
