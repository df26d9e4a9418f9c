"""The integer program over all groups' widths, against all combinations."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from netadapt_onnx.search.allowed_counts import ChannelChoices
from netadapt_onnx.search.netadapt import met
from netadapt_onnx.search.width_program import solve
from search_problems import CHAIN, chained

CHOICES = [ChannelChoices(name, n, tuple(range(n - 4, 3, -4)), tuple(range(n, 0, -1))) for name, n in CHAIN.items()]


def rising(seed: int) -> dict[str, np.ndarray]:
    """What each group loses with its channels, least first."""
    rng = np.random.default_rng(seed)
    return {name: np.concatenate([[0.0], np.cumsum(np.sort(rng.exponential(size=n)))]) for name, n in CHAIN.items()}


def lost(widths: Mapping[str, int], losses: Mapping[str, np.ndarray]) -> float:
    return sum(float(loss[CHAIN[name] - widths[name]]) for name, loss in losses.items())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ceilings", [{"macs": 800.0}, {"macs": 500.0}, {"macs": 900.0, "memory": 40.0}])
def test_the_solution_is_nearly_the_best_of_all(seed: int, ceilings: dict[str, float]) -> None:
    losses = rising(seed)
    solution = solve(CHOICES, CHAIN, losses, chained, ceilings)
    assert met(chained(solution), ceilings)
    counts = ((choice.channels, *choice.coarse) for choice in CHOICES)
    every = (dict(zip(CHAIN, widths, strict=True)) for widths in itertools.product(*counts))
    least = min(lost(widths, losses) for widths in every if met(chained(widths), ceilings))
    most = sum(float(loss[-1]) for loss in losses.values())
    assert most - lost(solution, losses) >= 0.95 * (most - least)


def test_what_no_widths_reach_is_approached() -> None:
    assert solve(CHOICES, CHAIN, rising(0), chained, {"macs": 1.0}) == {"a": 4, "b": 4, "c": 4}


def test_a_group_without_losses_is_not_cut() -> None:
    losses = rising(0)
    del losses["b"]
    assert solve(CHOICES, CHAIN, losses, chained, {"macs": 700.0})["b"] == CHAIN["b"]


def test_a_branch_of_little_loss_goes_rather_than_channels_of_much() -> None:
    branch = ChannelChoices("block", 1, (0,), (1, 0))

    def costs(widths: Mapping[str, int]) -> dict[str, float]:
        return {"macs": chained(widths)["macs"] + 600.0 * widths["block"]}

    losses = rising(1) | {"block": np.array([0.0, 0.1])}
    widths = solve(
        [*CHOICES, branch], CHAIN | {"block": 1}, losses, costs, {"macs": costs(CHAIN | {"block": 0})["macs"]}
    )
    assert widths == CHAIN | {"block": 0}


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS prints a line of its debugging to stdout in about one of 30 such programs, where `--json` is."""
    groups = {f"g{number}": 12 for number in range(24)}
    choices = [
        ChannelChoices(name, n, tuple(range(n - 1, 0, -1)), tuple(range(n, 0, -1))) for name, n in groups.items()
    ]
    for seed in range(40):
        rng = np.random.default_rng(seed)
        losses = {name: np.concatenate([[0.0], np.sort(rng.random(n) ** 3)]) for name, n in groups.items()}
        cost = {name: np.concatenate([[0.0], np.cumsum(rng.random(n))]) for name, n in groups.items()}

        def costs(widths: Mapping[str, int], cost: Mapping[str, np.ndarray] = cost) -> dict[str, float]:
            return {"macs": float(sum(cost[name][n] for name, n in widths.items()))}

        solve(choices, groups, losses, costs, {"macs": 0.6 * costs(groups)["macs"]})
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == ""
