"""The staircase that latency follows over widths.

Latency is flat in steps of the kernels' channel block, and widths that miss an alignment run another, slower kernel.
Both numbers differ between CPUs; they are chosen from a table's cells (`kernel_fit.py`) and not assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netadapt_onnx.profilers.table.arrays import Floats, Ints

# Kernels compute up to this many blocks of output channels in one pass over the input.
PASS = 4
# Every bit of a class of widths.
ALL_BITS = -1


@dataclass(frozen=True)
class Staircase:
    """Channels per `block`, and the `alignment` that a width must have to run the fast kernel."""

    block: int
    alignment: int

    def features(self, widths: Ints) -> Floats:
        """(n, k) widths -> (n, f) terms that a unit's time is a non-negative sum of."""
        w = widths.astype(np.float64)
        b = np.ceil(w / self.block)
        one = np.ones(len(w))
        if w.shape[1] == 0:
            return one[:, None]
        if w.shape[1] == 1:
            x, y = w[:, 0], b[:, 0]
            q = np.ceil(y / PASS)
            return np.stack([one, x, y, q, x * y, y * y, x * q, y * q], 1)
        if w.shape[1] == 2:
            x, X, y = w[:, 0], b[:, 0], b[:, 1]
            q = np.ceil(y / PASS)
            return np.stack([one, x, X, y, q, x * y, X * y, x * q, X * q], 1)
        last = w[:, -2] * b[:, -1]
        return np.concatenate([one[:, None], w, b, last[:, None]], 1)

    def width_classes(self, widths: Ints, discriminating_bits: int = ALL_BITS) -> Ints:
        """(n, k) widths -> (n,) the number of each row's class; class 0 is that of regular widths.

        Two bits per width tell classes apart: whether it is narrower than a block, and whether it is not aligned.
        `discriminating_bits` are those of these 2k bits that make a difference.
        """
        kinds = 2 * (widths % self.alignment != 0) + (widths < self.block)
        code: Ints = (kinds * 4 ** np.arange(widths.shape[1])).sum(1)
        return code & discriminating_bits

    def aligned(self, widths: Ints) -> Ints:
        """Widths raised to the next multiple of the alignment."""
        return -(-widths // self.alignment) * self.alignment
