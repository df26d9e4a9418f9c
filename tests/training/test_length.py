"""The length of a final training: longer for more samples and deeper cuts, bounded by what steps cost."""

from __future__ import annotations

from netadapt_onnx.training.length import (
    BACKWARD_SHARE,
    FEWEST_OF_COSTLY,
    FEWEST_OF_TRIAL,
    FEWEST_STEPS,
    MOST_MACS,
    MOST_STEPS,
    TRIAL_SHARE,
    automatic_batch_size,
    automatic_steps,
    trial_steps,
)


def test_few_samples_get_the_fewest_steps_and_many_the_most() -> None:
    assert automatic_steps(300, 37, 10**6, 0.75) == FEWEST_STEPS
    assert automatic_steps(10**6, 128, 10**6, 0.75) == MOST_STEPS


def test_what_was_cut_deeper_is_trained_longer() -> None:
    lengths = [automatic_steps(8000, 128, 10**6, share) for share in (1.0, 0.6, 0.35)]
    assert lengths == sorted(set(lengths))
    assert lengths[0] == 250


def test_steps_that_cost_much_are_fewer() -> None:
    macs, batch = 300 * 10**6, 32
    steps = automatic_steps(50_000, batch, macs, 0.75)
    assert steps * macs * batch * BACKWARD_SHARE <= MOST_MACS
    assert automatic_steps(300, 32, 10**11, 0.75) == FEWEST_OF_COSTLY


def test_batches_of_few_samples_are_small() -> None:
    assert automatic_batch_size(300, 128) == 37
    assert automatic_batch_size(50, 128) == 16
    assert automatic_batch_size(18_000, 128) == 128
    assert automatic_batch_size(50, 8) == 8


def test_models_are_compared_after_as_many_steps_as_their_cost_allows_or_none() -> None:
    assert trial_steps(40, 128, 10**6) == 40
    costly = int(TRIAL_SHARE * MOST_MACS / (BACKWARD_SHARE * 128 * 20))
    assert FEWEST_OF_TRIAL <= trial_steps(40, 128, costly) <= 20
    assert trial_steps(40, 128, 10 * costly) == 0
