"""Which samples each step of a training sees, in which order, and how many steps there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netadapt_onnx.data.dataset import Labels, Split
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.training.augment import augmented, with_flips
from netadapt_onnx.training.distillation import MOST_PRECOMPUTED
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.replicas import Fetch


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a training: a function of its seed alone, so that a resumed training sees the same ones.

    With `flip` the second half of `split` holds the mirror images of the first half.
    """

    split: Split
    batch_size: int
    steps_per_epoch: int
    steps: int
    seed: int
    augment: bool = False
    flip: bool = False

    @staticmethod
    def of(options: TrainingOptions, split: Split, batch_size: int) -> BatchPlan:
        """The plan for a split; what does not fill a batch waits for another epoch's order."""
        per_epoch = max(1, len(split) // batch_size)
        steps = options.steps if options.steps is not None else (options.epochs or 0) * per_epoch
        flip = options.flip and not split.varies and 2 * len(split) <= MOST_PRECOMPUTED
        shown = with_flips(split) if flip else split
        return BatchPlan(shown, batch_size, per_epoch, steps, options.seed, options.augment, flip)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Row numbers of every batch of an epoch, (batch_size,) each; fewer where the split holds fewer samples.

        With `flip` each epoch shows every picture one way or the other, and the next epoch the other way.
        """
        rng = np.random.default_rng([self.seed, epoch])
        if not self.flip:
            order = rng.permutation(len(self.split))
        else:
            half = len(self.split) // 2
            first = np.random.default_rng([self.seed, epoch // 2]).integers(0, 2, half)
            order = rng.permutation(half)
            order = order + half * (first[order] ^ (epoch % 2))
        return [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(self.steps_per_epoch)]

    def fetch(self, step: int) -> Fetch:
        """The function that reads the samples of one step, from several threads."""

        def fetch(rows: np.ndarray) -> tuple[Arrays, Labels | None]:
            inputs, labels = self.split.batch(rows), self.split.targets(rows)
            if self.augment:
                return augmented(inputs, labels, np.random.default_rng([self.seed, step, int(rows[0])]))
            return inputs, labels

        return fetch
