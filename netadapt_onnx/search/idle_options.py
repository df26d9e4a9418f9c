"""Options that the user gave and that nothing reads beside the others: said, because something else was meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from netadapt_onnx.common.escape import shell_command
from netadapt_onnx.search.options import AdaptOptions


def _measures_table(options: AdaptOptions) -> bool:
    """Whether a latency table is measured for the run."""
    return not options.table and any(budget.kind == "latency" for target in options.targets for budget in target)


def _has_curves(options: AdaptOptions) -> bool:
    """Whether error curves choose widths, at the beginning, as the strategy or at the end."""
    return options.strategy == "curves" or options.begins_with_curves or options.portfolio != "off"


# By option, when something reads it, and what it is for.
_READ: Mapping[str, tuple[Callable[[AdaptOptions], bool], str]] = {
    "start": (lambda options: options.strategy == "netadapt", "it is for --strategy netadapt"),
    "start_share": (lambda options: options.begins_with_curves, "it is for --strategy netadapt --start curves"),
    "draws": (_has_curves, "no error curves choose widths"),
    "table_models": (_measures_table, "it is for a latency budget without --table"),
    "final_effort": (lambda options: options.final_epochs == "auto", "it is for --final-epochs auto"),
    "augment": (lambda options: options.final_epochs != 0, "there is no final training"),
    "short_term_lr": (
        lambda options: bool(options.short_term_steps or options.portfolio_steps),
        "nothing is trained on the way",
    ),
}


def idle_options(options: AdaptOptions) -> tuple[str, ...]:
    """A note for every option with a value of the user's that changes nothing.

    Args:
        options: The options of a search with data; without, much is off that nobody has asked for.
    """
    words = {name: options.words(name) for name in _READ}
    return tuple(
        f"{shell_command(words[name])} has no effect: {what_for}"
        for name, (is_read, what_for) in _READ.items()
        if words[name] and not is_read(options)
    )
