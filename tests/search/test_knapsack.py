"""The knapsack strategy: its solver against all combinations, and whole runs with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netadapt_onnx.api.adapt import adapt, dry_run
from netadapt_onnx.common.budget import budget_texts, parse_targets
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.knapsack import ROUNDS
from netadapt_onnx.search.netadapt import amounts_after, met
from netadapt_onnx.search.proposals import TOGETHER
from search_cases import FAST, history
from search_problems import CHAIN, chained, problem, search

pytestmark = pytest.mark.usefixtures("fixed_training_settings")


def scores(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.sort(rng.exponential(size=n)) for name, n in CHAIN.items()}


def kept(widths: Mapping[str, int], importance: Mapping[str, np.ndarray]) -> float:
    return sum(float(s[len(s) - widths[name] :].sum()) for name, s in importance.items())


def test_rounds_end_on_the_budget_and_score_anew() -> None:
    one = problem(CHAIN, chained, {"macs": 700.0}, lambda w: kept(w, scores(0)), step=4)
    calls = []

    def importances() -> dict[str, np.ndarray]:
        calls.append(1)
        now = steps[-1].widths if steps else CHAIN
        return {name: s[len(s) - now[name] :] for name, s in scores(0).items()}

    steps: list[Any] = []
    for step in search(one, importances=importances):
        steps.append(step)
    assert len(calls) == sum(s.group == TOGETHER for s in steps) == ROUNDS
    assert met(amounts_after(one, steps), one.limits)
    assert amounts_after(one, steps)["macs"] >= 0.97 * 700
    again = [
        *steps[:2],
        *search(one, steps[:2], lambda: {n: s[len(s) - steps[1].widths[n] :] for n, s in scores(0).items()}),
    ]
    assert again[2] == steps[2]


@pytest.mark.parametrize("budget", [["macs=0.5x"], ["params=0.6x", "macs=0.7x"]])
def test_a_run_by_knapsack_meets_its_budgets(task: tuple[Path, Path], tmp_path: Path, budget: list[str]) -> None:
    result = adapt(*task, budget, tmp_path / "run", strategy="knapsack", **FAST)
    assert result.met
    assert result.after.macs < result.before.macs
    steps = history(tmp_path / "run")
    assert steps[0]["group"] == TOGETHER
    assert adapt(*task, budget, tmp_path / "run", strategy="knapsack", resume=True, **FAST) == result


def test_a_knapsack_wants_importances_that_compare(task: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(NetadaptError, match="compares groups, which l2 does not"):
        adapt(*task, "macs=0.5x", tmp_path / "run", strategy="knapsack", criterion="l2", **FAST)


def test_a_knapsack_run_goes_on_where_it_was_stopped(task: tuple[Path, Path], tmp_path: Path) -> None:
    more: dict[str, Any] = {**FAST, "strategy": "knapsack", "final_epochs": 0}
    full_run = adapt(*task, "macs=0.5x", tmp_path / "whole", **more)
    adapt(*task, "macs=0.5x", tmp_path / "parts", **more, max_time=1e-6)
    adapt(*task, "macs=0.5x", tmp_path / "parts", **more, resume=True)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert full_run.model.read_bytes() == (tmp_path / "parts/model.onnx").read_bytes()


def test_a_dry_run_shows_the_first_round(task: tuple[Path, Path], tmp_path: Path) -> None:
    planned = dry_run(*task, "macs=0.5x", strategy="knapsack", **FAST)
    result = adapt(*task, "macs=0.5x", tmp_path / "run", strategy="knapsack", max_iterations=1, **FAST)
    (step,) = history(tmp_path / "run")
    assert {p.group: p.channels[1] for p in planned.proposals} == {
        name: n for name, n in step["widths"].items() if n != result.groups[name][0]
    }


def test_several_targets_leave_a_model_for_each(task: tuple[Path, Path], tmp_path: Path) -> None:
    result = adapt(*task, "macs=0.6x,0.8x,0.4x", tmp_path / "run", **FAST)
    assert [m.budget for m in result.models] == ["macs=0.8x", "macs=0.6x", "macs=0.4x"]
    assert all(m.met and m.model.exists() for m in result.models)
    for model, share in zip(result.models, (0.8, 0.6, 0.4), strict=True):
        assert 0.85 * share <= model.after.macs / model.before.macs <= share
    assert (result.model, result.after) == (tmp_path / "run/model.onnx", result.models[-1].after)
    assert result.models[0].model == tmp_path / "run/models/macs-0.8x.onnx"
    assert adapt(*task, "macs=0.6x,0.8x,0.4x", tmp_path / "run", resume=True, **FAST) == result


def test_targets_stopped_on_the_way_are_gone_for_again(task: tuple[Path, Path], tmp_path: Path) -> None:
    budget, slowly = "macs=0.8x,0.4x", {**FAST, "init_reduction_ratio": 0.1, "decay": 1.0, "final_epochs": 0}
    full_run = adapt(*task, budget, tmp_path / "whole", **slowly)
    part = adapt(*task, budget, tmp_path / "parts", max_iterations=full_run.iterations - 1, **slowly)
    assert [m.stopped for m in part.models] == ["met", "max-iterations"]
    again = adapt(*task, budget, tmp_path / "parts", resume=True, **slowly)
    assert again.met
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert again.model.read_bytes() == full_run.model.read_bytes()


def test_targets_are_read_loosest_first() -> None:
    two = parse_targets(["latency=0.4x,0.6x", "size=4MB"], ("latency", "size"))
    assert [[str(b) for b in target] for target in two] == [
        ["latency=0.6x", "size=4000000"],
        ["latency=0.4x", "size=4000000"],
    ]
    assert budget_texts("latency=0.4x,60%", ("latency",)) == ("latency=0.6x,0.4x",)


@pytest.mark.parametrize(
    "budget", ["macs=0.5x,0.5x", "macs=0.5x,2M", "macs=0.5x,", ["macs=0.5x,0.4x", "params=0.9x,0.8x,0.7x"]]
)
def test_targets_that_make_no_sense_are_refused(budget: str | list[str]) -> None:
    with pytest.raises(NetadaptError) as error:
        parse_targets(budget)
    assert error.value.code == "budget"
