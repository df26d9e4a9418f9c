"""Which samples each step of a training sees, in which order, and how many steps there are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from netadapt_onnx.data.dataset import Labels, Split
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.training.augment import augmented
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.replicas import Fetch
from netadapt_onnx.training.views import Views, with_views


def epoch_order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order in which an epoch shows the samples, (samples,)."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a training: a function of its seed alone, so that a resumed training sees the same ones.

    `split` holds all views of the samples, view after view.
    """

    split: Split
    batch_size: int
    steps_per_epoch: int
    steps: int
    seed: int
    augment: bool = False
    views: Views = field(default_factory=Views)

    @staticmethod
    def of(options: TrainingOptions, split: Split, batch_size: int) -> BatchPlan:
        """The plan for a split; what does not fill a batch waits for another epoch's order."""
        per_epoch = max(1, len(split) // batch_size)
        steps = options.steps if options.steps is not None else (options.epochs or 0) * per_epoch
        shown = with_views(split, options.views, options.seed)
        return BatchPlan(shown, batch_size, per_epoch, steps, options.seed, options.augment, options.views)

    @property
    def samples(self) -> int:
        """The samples themselves, of which `split` holds the views."""
        return len(self.split) // self.views.count

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Row numbers of every batch of an epoch, (batch_size,) each; fewer where the split holds fewer samples.

        Each epoch shows one view of every picture, and the next epoch the next one.
        """
        order = self._order(epoch)
        return [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(self.steps_per_epoch)]

    def order(self) -> np.ndarray:
        """All row numbers in the order in which they are shown first, however many steps there are."""
        return np.concatenate([self._order(epoch) for epoch in range(self.views.count)])

    def _order(self, epoch: int) -> np.ndarray:
        return epoch_order(self.seed, epoch, self.samples) + self.samples * (epoch % self.views.count)

    def fetch(self, step: int) -> Fetch:
        """The function that reads the samples of one step, from several threads."""

        def fetch(rows: np.ndarray) -> tuple[Arrays, Labels | None]:
            inputs, labels = self.split.batch(rows), self.split.targets(rows)
            if self.augment:
                return augmented(inputs, labels, np.random.default_rng([self.seed, step, int(rows[0])]))
            return inputs, labels

        return fetch
