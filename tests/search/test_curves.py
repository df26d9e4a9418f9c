"""The curves strategy: probes, losses, and widths for any target at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from netadapt_onnx.search.allowed_counts import ChannelChoices
from netadapt_onnx.search.curves import PROBE_ERROR, Probe, compete, is_due, losses_of, probe_counts
from netadapt_onnx.search.loss_versions import POWERS
from netadapt_onnx.search.methods import Methods
from netadapt_onnx.search.netadapt import amounts_after, met
from netadapt_onnx.search.proposals import Proposal
from search_problems import problem, search

DRAWS = 4
FULL = {"a": 16, "b": 32}
CURVES = {"a": (np.arange(17) / 16) ** 2, "b": (np.arange(33) / 32) ** 3}
CHOICES = [ChannelChoices("a", 16, (12, 8, 4), (16, 12, 8, 4)), ChannelChoices("b", 32, (24, 16, 8), (32, 24, 16, 8))]


def cost(widths: Mapping[str, int]) -> dict[str, float]:
    return {"macs": float(2 * widths["a"] + widths["b"])}


def test_groups_are_probed_where_their_error_is_seen_and_branches_without() -> None:
    branch = ChannelChoices("block", 1, (0,), (1, 0))
    counts = probe_counts([*CHOICES, branch], CURVES)
    assert counts == {"a": 12, "b": 16, "block": 0}
    for name, count in (("a", 12), ("b", 16)):
        assert abs(CURVES[name][FULL[name] - count] - PROBE_ERROR) < 0.1


def test_a_probe_scales_the_curve_of_its_group() -> None:
    losses = losses_of(CHOICES, CURVES, [Probe("a", 12, 0.02), Probe("b", 16, None)])
    assert set(losses) == {"a"}
    assert losses["a"][0] == 0
    np.testing.assert_allclose(losses["a"][4], 0.02, rtol=1e-12)
    np.testing.assert_allclose(losses["a"][16], 0.02 * 16, rtol=1e-12)
    better = losses_of(CHOICES, CURVES, [Probe("a", 12, -0.3)])
    assert not better["a"].any()


def test_a_branch_loses_what_its_probe_lost() -> None:
    branch = ChannelChoices("block", 1, (0,), (1, 0))
    losses = losses_of([branch], {}, [Probe("block", 0, 0.25)])
    np.testing.assert_allclose(losses["block"], [0.0, 0.25])


def test_each_target_gets_widths_of_its_own_from_the_original_on() -> None:
    losses = losses_of(CHOICES, CURVES, [Probe("a", 12, 0.02), Probe("b", 16, 0.02)])
    one = problem(FULL, cost, {"macs": 48.0}, lambda w: 1.0 - cost(w)["macs"] / 1000, step=4)
    one = replace(one, choices=CHOICES)
    steps = list(search(one, methods=Methods(curves=lambda: losses)))
    assert met(amounts_after(one, steps), one.limits)
    tighter = replace(one, limits={"macs": 24.0}, since=len(steps))
    more = [*steps, *search(tighter, steps, methods=Methods(curves=lambda: losses))]
    alone = list(search(replace(one, limits={"macs": 24.0}), methods=Methods(curves=lambda: losses)))
    assert dict(more[-1].widths) == dict(alone[-1].widths)
    assert met(amounts_after(tighter, more), tighter.limits)


def test_powers_and_draws_are_evaluated_once_for_each_widths_and_the_best_becomes_the_model() -> None:
    losses = losses_of(CHOICES, CURVES, [Probe("a", 12, 0.02), Probe("b", 16, 0.02)])
    one = replace(problem(FULL, cost, {"macs": 40.0}, lambda w: 0.5, step=4), choices=CHOICES)
    evaluated: list[int] = []

    def evaluate(proposals: Sequence[Proposal], numbers: Sequence[int]) -> list[float | None]:
        evaluated.extend(numbers)
        return [None if proposals[n].widths["a"] == 16 else proposals[n].widths["b"] / 32 for n in numbers]

    result = compete(one, [], losses, evaluate, DRAWS)
    assert evaluated == list(range(len(result.proposals)))
    assert 1 <= len(evaluated) <= len(POWERS) + DRAWS
    assert len({tuple(p.widths.values()) for p in result.proposals}) == len(result.proposals)
    assert all(met(p.resources, one.limits) for p in result.proposals)
    best = result.best()
    finite = [a for a in result.accuracies if a is not None]
    assert best == (None if not finite else result.accuracies.index(max(finite)))
    again = compete(one, [], losses, evaluate, DRAWS)
    assert again == result


def test_losses_are_drawn_so_many_times_around_those_of_the_best_widths() -> None:
    rng = np.random.default_rng(0)
    full = {f"group{n}": 32 for n in range(6)}
    losses = {name: np.linspace(0, rng.uniform(0.01, 0.1), 33) ** 2 for name in full}
    one = problem(full, lambda w: {"macs": float(sum(w.values()))}, {"macs": 100.0}, lambda w: 0.5)
    one = replace(
        one, choices=[ChannelChoices(name, 32, tuple(range(30, 1, -2)), tuple(range(32, 1, -2))) for name in full]
    )
    methods = {
        draws: [p.method for p in compete(one, [], losses, lambda _, numbers: [0.5] * len(numbers), draws).proposals]
        for draws in (0, 1, DRAWS)
    }
    for draws, tried in methods.items():
        beyond = {f"curves, draw {number}" for number in range(draws + 1, DRAWS + 1)}
        assert tried == [method for method in methods[DRAWS] if method not in beyond]
    assert len(methods[0]) < len(methods[DRAWS])


def test_what_lost_a_round_does_not_come_back_in_another() -> None:
    """No count comes near the budget, and nothing is measured: another round would have nothing but the losers.

    Either one wide group goes down, which the losses prefer, or two narrow ones, which their squares prefer.
    """
    full = {"wide": 16, "narrow1": 8, "narrow2": 8}
    losses = {"wide": np.linspace(0, 0.06, 17), "narrow1": np.linspace(0, 0.04, 9), "narrow2": np.linspace(0, 0.04, 9)}
    one = problem(full, lambda w: {"macs": float(sum(w.values()))}, {"macs": 26.0}, lambda w: w["narrow1"] / 10)
    choices = [ChannelChoices(name, n, (n // 2,), (n, n // 2)) for name, n in full.items()]
    one = replace(one, choices=choices)
    (step,) = search(one, methods=Methods(curves=lambda: losses))
    assert amounts_after(one, [step])["macs"] < one.converged_amount("macs")
    assert {"curves", "curves^2"} <= {entry.group for entry in step.tried}
    assert dict(step.widths) == {**full, "wide": 8}


def test_a_measurement_above_the_prediction_gives_another_round() -> None:
    """What the device measures is 1.3 times what was predicted: the widths are chosen anew for that."""
    losses = losses_of(CHOICES, CURVES, [Probe("a", 12, 0.02), Probe("b", 16, 0.02)])
    one = problem(FULL, cost, {"macs": 48.0}, lambda w: 0.5, step=4, corrections=[{"macs": 1.3}, {"macs": 1.3}] * 4)
    one = replace(one, choices=CHOICES)
    steps = list(search(one, methods=Methods(curves=lambda: losses)))
    assert len(steps) == 2
    assert cost(steps[-1].widths)["macs"] * 1.3 <= 48
    assert not is_due(one, steps) or not compete(one, steps, losses, lambda *_: []).proposals
