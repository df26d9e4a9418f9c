"""How many steps the training at the end of a search takes, where the user does not say: a rule without a clock."""

from __future__ import annotations

import math

BATCH_SIZE = 128
# A model that kept all is shown every sample so often, one that kept half of its multiply-accumulates twice as often.
PASSES = 4
FEWEST_STEPS, MOST_STEPS = 100, 1600
# Multiply-accumulates of all steps together, forward and backward; on one core of an Intel Xeon with AVX-512 (beside
# other work) 1e12 took 48 s of a ResNet-20 and 113 s of an EfficientNet-Lite0, whose depthwise layers compute slowly.
MOST_MACS = 12e12
# Even a network that exceeds them takes so many.
FEWEST_OF_COSTLY = 40
BACKWARD_SHARE = 3
# A training that only compares models takes at most this share of those, and tells nothing in fewer steps than this.
TRIAL_SHARE, FEWEST_OF_TRIAL = 0.05, 10
# Batches hold an eighth of few samples, so that there are several of them, and never fewer than 16.
BATCHES_OF_FEW, SMALLEST_BATCH = 8, 16


def automatic_steps(samples: int, batch_size: int, macs: int, kept_share: float) -> int:
    """The steps of a final training: four passes over the samples for all that was kept, between 100 and 1,600 steps.

    Fewer where they would take too many multiply-accumulates, but at least 40: held-out data end it earlier.

    Args:
        samples: Training samples.
        batch_size: Samples a step.
        macs: Multiply-accumulates of the model for one sample.
        kept_share: The share of the original's multiply-accumulates that the model still has, in (0, 1].
    """
    passes = PASSES / min(1.0, max(kept_share, 0.1))
    steps = min(MOST_STEPS, max(FEWEST_STEPS, math.ceil(passes * samples / batch_size)))
    affordable = int(MOST_MACS / max(1, BACKWARD_SHARE * macs * batch_size))
    return max(FEWEST_OF_COSTLY, min(steps, affordable))


def trial_steps(planned: int, batch_size: int, macs: int) -> int:
    """The steps of a training that only compares models: as planned, or as many as a costly network may take.

    Args:
        planned: The steps that a cheap network takes.
        batch_size: Samples a step.
        macs: Multiply-accumulates of the network for one sample.

    Returns:
        0 where so few would tell nothing.
    """
    affordable = int(TRIAL_SHARE * MOST_MACS / (BACKWARD_SHARE * max(1, macs) * batch_size))
    return min(planned, affordable) if affordable >= FEWEST_OF_TRIAL else 0


def automatic_batch_size(samples: int, usual: int) -> int:
    """The samples of a step: the usual number, or an eighth of the samples where those are few."""
    return max(min(usual, SMALLEST_BATCH), min(usual, samples // BATCHES_OF_FEW))
