"""How much is spent on models only to compare them: as much as the network's cost allows."""

from __future__ import annotations

from dataclasses import dataclass

from netadapt_onnx.graph.cost import cost
from netadapt_onnx.search.first_jump import CHEAP_SHARE, COSTLY_SHARE
from netadapt_onnx.search.options import PORTFOLIO_STEPS, AdaptOptions
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.training.length import BATCH_SIZE, trial_steps


@dataclass(frozen=True)
class TrialLengths:
    """The short trainings of a search.

    Attributes:
        short_term: The steps of each proposal, finalist or winner; 0: they are not trained.
        finalists: How many proposals of an iteration are trained for so long before one of them wins; where that is
            too costly, all of their layers are solved in order.
        portfolio: The steps of the first round of a portfolio; 0: the solved models decide.
        start_share: The share of the way to the budget that error curves go before the loop begins.
    """

    short_term: int
    finalists: int
    portfolio: int
    start_share: float = CHEAP_SHARE

    @property
    def trains_finalists(self) -> bool:
        """Whether there are finalists, and they are trained."""
        return self.finalists > 0 and self.short_term > 0


def trial_lengths(prepared: PreparedModel, options: AdaptOptions) -> TrialLengths:
    """The short trainings of a search: as the user asks, or as many steps as a costly network may take.

    Args:
        prepared: The model and the data.
        options: The user's options.
    """
    flat, samples = prepared.trace.flat, 0 if prepared.data is None else len(prepared.data.train)
    macs = cost(flat.proto, flat.shapes).macs

    def affordable(planned: int) -> int:
        return trial_steps(planned, min(BATCH_SIZE, samples), macs) if samples else 0

    short_term, finalists = options.short_term_steps, options.finalists
    if finalists and options.short_term is None:
        short_term = affordable(short_term)
        finalists = finalists if samples else 0
    start_share = options.start_share
    if start_share is None:
        start_share = CHEAP_SHARE if affordable(PORTFOLIO_STEPS) else COSTLY_SHARE
    return TrialLengths(short_term, finalists, affordable(options.portfolio_steps), start_share)
