"""Least squares with coefficients of at least 0, robust against measurements that something disturbed."""

from __future__ import annotations

import numpy as np

from netadapt_onnx.profilers.statistics import huber_weights
from netadapt_onnx.profilers.table.arrays import Floats

# Relative budgets are shares of the uncut model's time (number 0), so a fit should pass close by it.
REFERENCE_WEIGHT = 3.0


def robust_nonnegative(terms: Floats, target: Floats, weight: Floats | None = None, rounds: int = 10) -> Floats:
    """Fit non-negative coefficients in relative error, reweighted so that outliers count less (Huber 1964).

    Args:
        terms: (n, f) what the target is a sum of.
        target: (n,) positive numbers.
        weight: (n,) how much each row counts (None: all alike).
        rounds: how often rows are weighted by how far the fit before was off them.

    Returns:
        (f,) coefficients, in units of the target per unit of each term.
    """
    relative = (np.ones_like(target) if weight is None else weight) / np.maximum(target, 1e-9)
    trust: Floats = np.ones_like(target)
    scale = np.abs(terms).max(0)
    scale[scale == 0] = 1.0
    coefficients: Floats = np.zeros(terms.shape[1])
    for _ in range(rounds):
        w = np.sqrt(trust) * relative
        coefficients = nonnegative(terms / scale * w[:, None], target * w) / scale
        trust = huber_weights(np.abs(terms @ coefficients - target) * relative)
    return coefficients


def nonnegative(a: Floats, y: Floats) -> Floats:
    """Return argmin |a x - y| over x >= 0 (Lawson and Hanson 1974, chapter 23), for a few columns."""
    gram, target = a.T @ a, a.T @ y
    n = len(target)
    tolerance = 1e-10 * max(1e-30, float(np.abs(target).max()))
    gram = gram + np.eye(n) * 1e-9 * max(1e-30, float(np.trace(gram)) / n)  # columns may coincide
    x: Floats = np.zeros(n)
    free = np.zeros(n, bool)
    for _ in range(3 * n):
        gradient = target - gram @ x
        gradient[free] = -np.inf
        if free.all() or gradient.max() <= tolerance:
            break
        free[int(np.argmax(gradient))] = True
        while True:
            trial: Floats = np.zeros(n)
            trial[free] = np.linalg.solve(gram[np.ix_(free, free)], target[free])
            if (trial[free] > 0).all():
                x = trial
                break
            blocking = free & (trial <= 0)
            steps = x[blocking] / np.maximum(x[blocking] - trial[blocking], 1e-300)
            x = x + float(steps.min()) * (trial - x)
            free &= x > 1e-15
            x[~free] = 0.0
            if not free.any():
                break
    return x
