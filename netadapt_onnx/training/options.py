"""What can be chosen about a training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from netadapt_onnx.training.recipe import LARGEST_GRADIENT, Recipe
from netadapt_onnx.training.settings import Settings


@dataclass(frozen=True)
class TrainingOptions:
    """All that decides a training's result besides the model, the data and the teacher, and how it runs.

    Attributes:
        epochs: Passes over the training data. Either this or `steps` is set.
        steps: Batches.
        lr: The highest learning rate; None: the usual one of this kind of network; "auto": found by a range test.
        seed: Decides the order of the samples and what `augment` draws.
        batch_size: Samples a step; None: 128, or fewer where their activations would not fit into memory.
        augment: Whether pictures are shifted and mirrored at random.
        flip: Whether pictures are shown both ways in turn, with the mean of the teacher's two answers as the target, if
            the teacher can remember them (`augment.py`).
        recipe: How the weights move.
        settings: How this machine trains; None: a few timed steps choose. The same settings repeat a training bit for
            bit.
        threads: Threads for the replicas of `settings`; with fewer than replicas it takes longer, to the same result.
    """

    epochs: int | None = None
    steps: int | None = None
    lr: float | Literal["auto"] | None = None
    seed: int = 0
    batch_size: int | None = None
    augment: bool = False
    flip: bool = False
    recipe: Recipe = field(default_factory=Recipe)
    settings: Settings | None = None
    threads: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint records and compares: all but `threads`, which change no result."""
        return {
            "epochs": self.epochs,
            "steps": self.steps,
            "lr": self.lr,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "augment": self.augment,
            "mirrored": self.flip,
            "optimiser": self.recipe.optimizer,
            "schedule": self.recipe.schedule,
            "weight_decay": self.recipe.weight_decay,
            "largest_gradient": LARGEST_GRADIENT,
            "settings": None if self.settings is None else asdict(self.settings),
        }
