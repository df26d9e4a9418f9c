"""An average of the weights that a training passes through, which is more accurate than where it stands at any moment.

It follows the last tenth of the steps (Polyak & Juditsky, 1992; Izmailov et al., UAI 2018), so that a training can be
judged, and ended, while its learning rate is still high.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# The average forgets so slowly at most, and what it began with as 9 / (step + 9): it looks back over a tenth of the
# steps at first, and over the last hundred of a long training.
SLOWEST, DELAY = 0.99, 9


class AveragedWeights:
    """An exponential moving average of a network's weights and running statistics.

    Attributes:
        state: The average, by name; what `TorchGraph.restore` takes.
        steps: The steps that went into it.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """Begin with the weights of a network, which are copied."""
        self.state = {name: value.detach().clone() for name, value in state.items()}
        self.steps = 0

    def update(self, current: Mapping[str, Tensor]) -> None:
        """Take the weights after another step in."""
        self.steps += 1
        kept = min(SLOWEST, self.steps / (self.steps + DELAY))
        with torch.no_grad():
            for name, average in self.state.items():
                average.lerp_(current[name].detach().to(average.dtype), 1 - kept)

    def resume(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Go on from a state that was saved."""
        for name, average in self.state.items():
            average.copy_(state[name])
        self.steps = steps
