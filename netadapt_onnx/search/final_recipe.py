"""How the model that a search ends with is trained: how long, how gently, on which views, against what.

A model whose layers were solved stands close to the original: what it lost is not learnt at the rates that networks are
trained with. Everything here is a function of the model, the data and the options, never of a clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.surgery.flatten_subgraphs import flatten
from netadapt_onnx.training.length import BATCH_SIZE, automatic_batch_size, automatic_steps
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.views import Views, automatic_views

# A model that was trained and is cut a little more is trained for this share of the steps.
AGAIN = 0.2
# With fewer samples the statistics of a batch say less than those that the original has.
FEW_SAMPLES = 2048
# The share of the usual learning rate for layers that were solved, on few samples and on many.
GENTLE, GENTLE_ON_MANY = 0.1, 0.4


@dataclass(frozen=True)
class FinalRecipe:
    """The recipe of one final training.

    Attributes:
        options: The user's options.
        data: The samples.
        model: The model that is trained.
        original: The model that it was cut from.
        again: Whether it descends from a model that was trained.
    """

    options: AdaptOptions
    data: Dataset
    model: FoldedModel
    original: FoldedModel
    again: bool

    @property
    def is_automatic(self) -> bool:
        """Whether its length was left to the rule of `length.py`: it then ends where it no longer pays."""
        return self.options.final_epochs == "auto"

    @property
    def epochs(self) -> int | None:
        """Passes over the training data; None where its length is a number of steps."""
        epochs = self.options.final_epochs
        if isinstance(epochs, str):
            return None
        return max(1, round(AGAIN * epochs)) if self.again and epochs else epochs

    @property
    def batch_size(self) -> int | None:
        """Samples a step; None: the usual number, or what fits into memory."""
        samples = len(self.data.train)
        fitting = automatic_batch_size(samples, BATCH_SIZE)
        return fitting if fitting < BATCH_SIZE else None

    @property
    def steps(self) -> int:
        """Its length in steps, as planned: a batch that does not fit into memory makes it longer in passes."""
        samples, size = len(self.data.train), self.batch_size or BATCH_SIZE
        if self.epochs is not None:
            return self.epochs * max(1, samples // size)
        before, after = (_macs(model) for model in (self.original, self.model))
        steps = self.options.final_effort * automatic_steps(samples, size, after, after / max(1, before))
        return max(1, round(AGAIN * steps if self.again else steps))

    def training_options(self, settings: Settings, is_flip_invariant: bool) -> TrainingOptions:
        """What `train` takes.

        Args:
            settings: How this machine trains.
            is_flip_invariant: Whether the original knows mirror images.
        """
        views, is_few = self._views(is_flip_invariant), len(self.data.train) < FEW_SAMPLES
        return TrainingOptions(
            epochs=self.epochs,
            steps=None if self.epochs is not None else self.steps,
            seed=self.options.seed,
            batch_size=self.batch_size,
            views=views,
            # What cannot be shown in views is refused by name, if the user asked for it.
            augment=self.options.augment is True and views.count == 1,
            matches_features=True,
            fixes_statistics=is_few,
            averages=True,
            lr_share=GENTLE if is_few else GENTLE_ON_MANY,
            settings=settings,
            length_may_differ=True,
        )

    def _views(self, is_flip_invariant: bool) -> Views:
        if self.options.augment is False:
            return Views()
        split = self.data.train
        passes = self.steps * (self.batch_size or BATCH_SIZE) / max(1, len(split))
        return automatic_views(
            split,
            passes,
            flips=is_flip_invariant,
            pairs_agree=split.labels is not None,
            always=bool(self.options.augment),
        )


def _macs(model: FoldedModel) -> int:
    """Multiply-accumulates of a model for one sample."""
    flat, _ = flatten(model)
    return cost(flat.proto, flat.shapes).macs
