"""What takes part in a search besides NetAdapt's own loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.search.width_program import Losses

# By group or branch, the importance of every channel of a model, least first.
Importances = Callable[[], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class PortfolioPlan:
    """What competes with the widths of a search at its end.

    Attributes:
        strategy: What the search's own widths are called.
        losses: Computes what the outputs lose with each group's channels, for the curves; None: they do not compete.
        importances: Scores the channels of the original, for the knapsack; None: it does not compete.
        branches: The residual branches of the original.
        train_steps: The steps of the first round of training; 0: the solved models decide.
        own_is_solved: Whether the search's own model is solved as the others will be.
    """

    strategy: str
    losses: Callable[[], Losses] | None = None
    importances: Importances | None = None
    branches: tuple[str, ...] = ()
    train_steps: int = 0
    own_is_solved: bool = False


@dataclass(frozen=True)
class Methods:
    """The methods of a search, which compute what they need when it is needed first; None: left out.

    Attributes:
        knapsack: Scores the channels of the current model, for rounds of the knapsack.
        curves: Computes what the outputs lose with each group's channels, for the curves strategy.
        start: The same, for the widths that NetAdapt's loop begins at; None: it begins at the original's.
        start_share: The share of the way to the limits that those widths go.
        errors: Computes each group's error curve, for lazy ranking; None: all proposals are evaluated.
        portfolio: What competes at the end.
        draws: How many times losses are drawn where curves compete.
    """

    knapsack: Importances | None = None
    curves: Callable[[], Losses] | None = None
    start: Callable[[], Losses] | None = None
    start_share: float = 1.0
    errors: Callable[[], Losses] | None = None
    portfolio: PortfolioPlan | None = None
    draws: int = 0
