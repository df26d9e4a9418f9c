"""Ridge least squares from Gram matrices, and how strongly it holds weights to what they were.

Few images leave the inputs of a wide layer underdetermined: EfficientNet-Lite0's head has 1,280 of them, and 256 images
one sample each. What is solved for them without restraint answers worse for others than the weights did before.
"""

from __future__ import annotations

import numpy as np

from netadapt_onnx.surgery.reconstruct.gram import GramMatrices

# Of a Gram matrix's mean diagonal, ascending. The smallest is right where there are samples enough; the largest leaves
# the weights as they were, and moves the bias alone.
RIDGE = 1e-3
RIDGES = (RIDGE, 3e-2, 1.0, 30.0, np.inf)


def ridge_solution(matrices: GramMatrices, start: np.ndarray, ridge: float) -> np.ndarray:
    """The weights W that minimise |X W - Y|^2 / samples + ridge * mean diagonal * |W - start|^2, by conv group.

    Args:
        matrices: The Gram matrices of X, and of X and Y.
        start: The weights that it holds to, (groups, inputs, outputs).
        ridge: How strongly.
    """
    if ridge == np.inf:
        return start
    weights = []
    for gram, cross, anchor in zip(matrices.gram, matrices.cross, start, strict=True):
        penalty = ridge * float(np.trace(gram)) / len(gram) + 1e-12
        system = gram.copy()
        system.flat[:: len(gram) + 1] += penalty
        weights.append(_solved(system, cross + penalty * anchor))
    return np.stack(weights)


def _solved(system: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution of a symmetric system: by Cholesky, half the work, where rounding leaves it positive definite."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    try:
        # What is not finite is left to `solve`, as what is not positive definite is: it passes it on.
        factor = cho_factor(system, lower=True, check_finite=False)
        return np.asarray(cho_solve(factor, right, check_finite=False))
    except LinAlgError:
        return np.linalg.solve(system, right)


def best_ridge(fit: GramMatrices, unseen: GramMatrices, start: np.ndarray) -> float:
    """The ridge whose solution for some images has the least error on others; the first from which the error rises.

    Args:
        fit: The matrices of the images that it is solved for.
        unseen: Those of the others.
        start: The weights that it holds to, (groups, inputs, outputs).
    """
    best, least = RIDGE, np.inf
    fit, unseen, start = fit.single(), unseen.single(), start.astype(np.float32)  # enough to compare, in half the time
    for ridge in RIDGES:
        weights = ridge_solution(fit, start, ridge)
        residual = weights * (unseen.gram @ weights - 2 * unseen.cross)  # without |Y|^2, which is the same for all
        error = float(residual.sum(dtype=np.float64))
        if not error < least:
            break
        best, least = ridge, error
    return best
