"""What can be chosen about a training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from netadapt_onnx.training.recipe import LARGEST_GRADIENT, Recipe
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.views import Views


@dataclass(frozen=True)
class TrainingOptions:
    """All that decides a training's result besides the model, the data and the teacher, and how it runs.

    Attributes:
        epochs: Passes over the training data. Either this or `steps` is set.
        steps: Batches.
        lr: The highest learning rate; None: the usual one of this kind of network; "auto": found by a range test.
        seed: Decides the order of the samples and what `augment` draws.
        batch_size: Samples a step; None: 128, or fewer where their activations would not fit into memory.
        augment: Whether pictures are shifted and mirrored at random, anew at every step.
        views: The views of each picture that are shown in turn, as many as a teacher can remember its answers to.
        matches_features: Whether a teacher's features in front of the head are matched beside its answers.
        fixes_statistics: Whether BatchNorms keep their running statistics, and normalise by them.
        averages: Whether the result is an average of the weights that the training passes through.
        lr_share: The share of the usual learning rate that a training without an `lr` begins its cycle towards.
        length_may_differ: Whether a checkpoint goes on with another number of epochs or steps.
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
    views: Views = field(default_factory=Views)
    matches_features: bool = False
    fixes_statistics: bool = False
    averages: bool = False
    lr_share: float = 1.0
    length_may_differ: bool = False
    recipe: Recipe = field(default_factory=Recipe)
    settings: Settings | None = None
    threads: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint records and compares: all but `threads`, which change no result."""
        return {
            "epochs": None if self.length_may_differ else self.epochs,
            "steps": None if self.length_may_differ else self.steps,
            "lr": self.lr,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "augment": self.augment,
            "views": asdict(self.views) if self.views.count > 1 and not self.length_may_differ else None,
            "features": self.matches_features,
            "fixed_statistics": self.fixes_statistics,
            "averages": self.averages,
            "lr_share": self.lr_share if self.lr_share != 1.0 else None,
            "optimiser": self.recipe.optimizer,
            "schedule": self.recipe.schedule,
            "weight_decay": self.recipe.weight_decay,
            "largest_gradient": LARGEST_GRADIENT,
            "settings": None if self.settings is None else asdict(self.settings),
        }
