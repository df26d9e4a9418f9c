"""The evaluations of a training on held-out data: which of its states is kept, and when it no longer pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]

# A training is evaluated about so often, and no more often than every so many steps.
EVALUATIONS, FEWEST_STEPS = 8, 10
# Fewer evaluations, but never less than two, where they would take longer than this share of the training.
EVALUATION_SHARE, FEWEST_EVALUATIONS = 0.5, 2
# So many evaluations without a gain end a training whose length was not given.
PATIENCE = 4


@dataclass(frozen=True)
class Evaluation:
    """The accuracy after so many steps, of the averaged weights; at step 0 that of the model before the training."""

    step: int
    accuracy: float


@dataclass(frozen=True)
class Validation:
    """How a training is evaluated.

    Attributes:
        accuracy: The accuracy of a model on held-out data; higher is better.
        start: That of the model before the training.
        patience: How many evaluations without a gain end the training; None: it takes all of its steps.
        count: About how many evaluations there are.
    """

    accuracy: Callable[[onnx.ModelProto], float]
    start: float
    patience: int | None = None
    count: int = EVALUATIONS

    def is_due(self, step: int, planned: int) -> bool:
        """Whether the training is evaluated after a step: at even distances, and after the last."""
        return step >= planned or step % max(FEWEST_STEPS, -(-planned // self.count)) == 0

    def is_over(self, evaluations: Sequence[Evaluation]) -> bool:
        """Whether more steps no longer pay."""
        if self.patience is None or not evaluations:
            return False
        return len(evaluations) - 1 - evaluations.index(best_of(evaluations)) >= self.patience


def affordable_evaluations(shown: int, held_out: int) -> int:
    """How many evaluations a training is worth.

    Args:
        shown: The samples of all steps; forward and backward, each takes three passes.
        held_out: The samples of an evaluation.
    """
    return max(FEWEST_EVALUATIONS, min(EVALUATIONS, int(EVALUATION_SHARE * 3 * shown / max(1, held_out))))


class BestWeights:
    """The state of a training that held-out data like best, its beginning among them.

    Attributes:
        evaluations: All evaluations in order; the first is that of the model before the training.
        state: The best weights and statistics by name; None while that is the model before the training.
    """

    def __init__(self, validation: Validation, score: Callable[[State], float]) -> None:
        """Begin with the model before the training.

        Args:
            validation: How the training is evaluated.
            score: The accuracy of the network with some weights and statistics.
        """
        self._validation = validation
        self._score = score
        self.evaluations = [Evaluation(0, validation.start)]
        self.state: State | None = None

    def evaluate(self, step: int, planned: int, state: State) -> bool:
        """Evaluate a state after a step, if it is time for that; whether it was."""
        if self.evaluations[-1].step == step or not self._validation.is_due(step, planned):
            return False
        self.evaluations.append(Evaluation(step, self._score(state)))
        if best_of(self.evaluations).step == step:
            self.state = {name: value.detach().clone() for name, value in state.items()}
        return True

    @property
    def is_over(self) -> bool:
        """Whether more steps no longer pay."""
        return self._validation.is_over(self.evaluations)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"evaluations": [(one.step, one.accuracy) for one in self.evaluations], "state": self.state}

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on from what `saved` returned."""
        self.evaluations = [Evaluation(*one) for one in saved["evaluations"]]
        self.state = saved["state"]


def best_of(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation with the highest accuracy, the last of equals; the start's counts, NaN does not."""
    best = evaluations[0]
    for one in evaluations[1:]:
        if one.accuracy >= best.accuracy:
            best = one
    return best


def outcome(evaluations: Sequence[Evaluation]) -> str:
    """What held-out data said, in words: 66.0% before, 65.0% after 20 steps, 64.0% after 40."""
    before, *after = (f"{one.accuracy:.1%}" for one in evaluations)
    steps = [one.step for one in evaluations[1:]]
    parts = [f"{text} after {step} steps" for text, step in zip(after, steps, strict=True)]
    return ", ".join([f"{before} before", *parts])
