"""The evaluation of a search: proposals as jobs, and winners that are evaluated and measured once they are accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netadapt_onnx.search.candidates import Candidates
from netadapt_onnx.search.context import SearchContext
from netadapt_onnx.search.netadapt import TOGETHER, Accepted
from netadapt_onnx.search.proposals import Proposal


@dataclass(frozen=True)
class CandidateEvaluation:
    """An `Evaluation` whose proposals become models."""

    context: SearchContext
    candidates: Candidates

    def rank(self, iteration: int, proposals: Sequence[Proposal]) -> list[float | None]:
        """The ranking accuracy of each proposal after its short adaptation; None for one that failed."""
        return self.candidates.rank(iteration, proposals)

    def refine(self, iteration: int, finalists: Sequence[Proposal]) -> list[float | None]:
        """The ranking accuracy of each finalist after its short training; None for one that failed."""
        return self.candidates.refine(iteration, finalists)

    def accept(self, iteration: int, proposal: Proposal) -> Accepted:
        """Make a proposal the current model, measure the resources that can be, and evaluate it."""
        proto = self.candidates.accept(iteration, proposal)
        predicted, checks = self.context.predict(proposal.widths), self.context.budget_checks
        correction = {
            name: check.correction(iteration, proto, predicted[name], proposal.resources[name])
            for name, check in checks.items()
        }
        measured = {n: estimate for n, c in checks.items() if (estimate := c.measured(iteration)) is not None}
        options, evaluator = self.context.options, self.context.evaluator
        # Solved anew, or trained for a short time: better than the proposal was when it was ranked.
        anew = self.context.prepared.data is not None and options.rank == "reconstruct"
        changed = (anew and not options.finalists) or proposal.group == TOGETHER
        ranked = evaluator.ranking_accuracy(proto) if changed else None
        return Accepted(
            accuracy=evaluator.val_accuracy(proto),
            ranked=ranked,
            correction=correction,
            measured={name: estimate.value for name, estimate in measured.items()},
            measured_ci95={name: (estimate.low, estimate.high) for name, estimate in measured.items()},
        )
