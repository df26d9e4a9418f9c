"""Ridge least squares, and the choice of the ridge on samples that were not solved for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from netadapt_onnx.surgery.reconstruct.gram import GramMatrices
from netadapt_onnx.surgery.reconstruct.ridge import RIDGES, best_ridge, ridge_solution

INPUTS, OUTPUTS = 20, 6


def problem(samples: int, noise: float, seed: int) -> tuple[GramMatrices, np.ndarray, np.ndarray]:
    """The matrices of random inputs and of targets near to those of some weights, and the inputs and targets."""
    weights = np.random.default_rng(0).standard_normal((2, INPUTS, OUTPUTS))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, samples, INPUTS))
    y = x @ weights + noise * rng.standard_normal((2, samples, OUTPUTS))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    matrices = GramMatrices(
        x.transpose(0, 2, 1) @ x / samples,
        x.transpose(0, 2, 1) @ y / samples,
        np.zeros((2, INPUTS)),
        np.zeros((2, OUTPUTS)),
    )
    return matrices, x, y


def start(distance: float) -> np.ndarray:
    """Weights so far from those of the problem."""
    weights = np.random.default_rng(0).standard_normal((2, INPUTS, OUTPUTS))
    return weights + distance * np.random.default_rng(1).standard_normal(weights.shape)


@pytest.mark.parametrize("ridge", RIDGES[:-1])
def test_the_solution_is_that_of_least_squares_with_the_start_as_more_samples(ridge: float) -> None:
    samples = 50
    matrices, x, y = problem(samples, 0.5, 2)
    solved, anchor = ridge_solution(matrices, start(1.0), ridge), start(1.0)
    for group in range(2):
        penalty = np.sqrt(samples * ridge * np.trace(matrices.gram[group]) / INPUTS) * np.eye(INPUTS)
        system = np.concatenate([x[group], penalty])
        expected = np.linalg.lstsq(system, np.concatenate([y[group], penalty @ anchor[group]]))[0]
        assert np.abs(solved[group] - expected).max() < 1e-8 * np.abs(expected).max()


def test_a_system_that_is_not_positive_definite_is_solved_all_the_same() -> None:
    matrices, _, _ = problem(50, 0.5, 2)
    indefinite = replace(matrices, gram=matrices.gram - 2 * np.eye(INPUTS))
    solved = ridge_solution(indefinite, np.zeros_like(matrices.cross), 1e-3)
    penalty = 1e-3 * np.trace(indefinite.gram, axis1=1, axis2=2)[:, None, None] / INPUTS * np.eye(INPUTS)
    assert np.linalg.eigvalsh(indefinite.gram + penalty).min() < 0
    residual = (indefinite.gram + penalty) @ solved - matrices.cross
    assert np.abs(residual).max() < 1e-8 * np.abs(matrices.cross).max()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_passed_on_and_no_error(value: float) -> None:
    matrices, _, _ = problem(50, 0.5, 2)
    gram, cross = matrices.gram.copy(), matrices.cross.copy()
    gram[0, 3, 3] = cross[1, 0, 0] = value
    solved = ridge_solution(replace(matrices, gram=gram, cross=cross), start(1.0), 1e-3)
    assert not np.isfinite(solved).all()


def test_the_largest_ridge_leaves_the_weights() -> None:
    assert np.array_equal(ridge_solution(problem(50, 0.5, 2)[0], start(1.0), RIDGES[-1]), start(1.0))


def test_many_samples_need_the_smallest_ridge() -> None:
    assert best_ridge(problem(5000, 0.1, 2)[0], problem(5000, 0.1, 3)[0], start(1.0)) == RIDGES[0]


def test_few_samples_hold_to_weights_that_were_good() -> None:
    fit, unseen = problem(12, 1.0, 2)[0], problem(12, 1.0, 3)[0]
    assert best_ridge(fit, unseen, start(0.01)) >= 1.0


def test_what_is_chosen_is_no_worse_for_others_than_the_smallest() -> None:
    for noise, distance in ((0.1, 1.0), (1.0, 0.3), (3.0, 0.01)):
        fit, (unseen, x, y) = problem(15, noise, 2)[0], problem(15, noise, 3)
        ridge = best_ridge(fit, unseen, start(distance))
        errors = [np.square(x @ ridge_solution(fit, start(distance), r) - y).sum() for r in (ridge, RIDGES[0])]
        assert errors[0] <= errors[1]
