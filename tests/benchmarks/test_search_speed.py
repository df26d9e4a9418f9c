"""The benchmark of the search's speed: its clock, the replay of lazy ranking, and the official code in a copy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import lazy_replay
import models
import netadapt_onnx
import official_netadapt
import result_tables
import search_speed
from netadapt_onnx.search.methods import Methods
from netadapt_onnx.search.worker import WorkerContext
from search_problems import SimulatedProblem, problem, search

GROUPS = {f"g{number:02d}": 32 for number in range(12)}


def test_iterations_are_timed_from_one_accepted_model_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([7.0, 8.0, 11.0, 13.0])
    monkeypatch.setattr(search_speed, "cpu_seconds", lambda: next(times))
    clock = search_speed.Clock(began=2.0)
    for number in range(4):
        clock.log("calibrating")
        clock.log(f"iteration {number}: conv1 16 -> 8, macs 0.9x")
    assert clock.iteration_s == 2.0
    assert search_speed.Clock(began=0.0, accepted=[5.0]).iteration_s is None


def simulated(seed: int) -> tuple[SimulatedProblem, dict[str, np.ndarray]]:
    """A search whose accuracy is what the curves say, times a weight of each group."""
    rng = np.random.default_rng(seed)
    errors = {name: rng.uniform(0.1, 1.0) * (np.arange(n + 1) / n) ** 2 for name, n in GROUPS.items()}
    weights = {name: rng.uniform(0.5, 2.0) for name in GROUPS}

    def accuracy(widths: Mapping[str, int]) -> float:
        return 1.0 - 0.02 * sum(weights[g] * float(errors[g][GROUPS[g] - n]) for g, n in widths.items())

    return problem(GROUPS, lambda w: {"macs": float(sum(w.values()))}, {"macs": 200.0}, accuracy, step=2), errors


def recorded(one: SimulatedProblem, errors: Mapping[str, np.ndarray]) -> lazy_replay.RecordedSearch:
    unpruned = {"macs": float(sum(GROUPS.values()))}
    return lazy_replay.RecordedSearch(list(search(one)), one.start, unpruned, one.limits, errors)


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_evaluates_what_lazy_ranking_does_and_finds_the_same_winners(seed: int) -> None:
    one, errors = simulated(seed)
    full = recorded(one, errors)
    lazy = list(search(one, methods=Methods(errors=lambda: errors)))
    compared = lazy_replay.replay(full)
    assert [row.winner for row in compared] == [step.group for step in full.steps]
    assert [row.lazy_winner for row in compared] == [step.group for step in lazy]
    assert [row.evaluated for row in compared] == [len(step.tried) for step in lazy]


def test_a_replay_tells_where_lazy_ranking_would_have_chosen_another_winner() -> None:
    """A group that lost most in the first iteration, and nothing from then on, is not looked at again."""
    one, errors = simulated(0)
    full = recorded(one, errors)
    worst = max(full.steps[0].tried, key=lambda entry: -(entry.accuracy or 0.0)).group
    changed = [full.steps[0], *(_with_winner(step, worst) for step in full.steps[1:2])]
    (first, second) = lazy_replay.replay(replace(full, steps=changed))
    assert first.same
    assert (second.winner, second.same) == (worst, False)
    row = lazy_replay.lazy_row([first, second])
    assert (row["iterations"], row["same"], row["differences"]) == (2, 1, [[2, worst, second.lazy_winner]])


def test_a_recorded_search_has_the_error_curves_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    onnx.save(models.resnet(), model)
    x = np.random.default_rng(0).standard_normal((96, 3, 16, 16)).astype(np.float32)
    np.savez(data, x_train=x[:64], x_val=x[64:])
    computed: list[Mapping[str, np.ndarray]] = []
    error_curves = WorkerContext.error_curves

    def curves_of(context: WorkerContext) -> Mapping[str, np.ndarray]:
        computed.append(error_curves(context))
        return computed[-1]

    monkeypatch.setattr(WorkerContext, "error_curves", curves_of)
    netadapt_onnx.adapt(model, data, "macs=0.8x", tmp_path / "run", max_iterations=1, portfolio="off", final_epochs=0)
    recorded_errors = lazy_replay.recorded_search(tmp_path / "run", model, data, "macs=0.8x", 0).errors
    errors = computed[0]
    assert errors.keys() == recorded_errors.keys()
    for group, curve in errors.items():
        np.testing.assert_array_equal(curve, recorded_errors[group])


def _with_winner(step, group):  # type: ignore[no-untyped-def]
    tried = tuple(replace(entry, accuracy=1.0) if entry.group == group else entry for entry in step.tried)
    return replace(step, group=group, tried=tried)


OFFICIAL = {
    "master.py": """
import json, os, pathlib, sys
loads = "model = torch.load(current_model_path)"
assert loads.endswith("weights_only=False)")
root = pathlib.Path(sys.argv[1])
for name in ("master", "worker"):
    (root / name).mkdir(parents=True)
(root / "worker" / "iter_1_block_0_log.txt").write_text(WORKER_LOG)
with open(os.environ["NETADAPT_CPU_FILE"], "a") as lines:
    print(1.5, file=lines)
    print(2.0, file=lines)
if "Traceback" in WORKER_LOG:
    import time
    time.sleep(60)
rows = ["Iteration,Accuracy", "0,90.0,1000.0,None,m,32 10", "1,89.0,480.0,0,m,16 10"]
(root / "master" / "history.txt").write_text("\\n".join(rows) + "\\n")
""",
    "worker.py": "model = torch.load(args.model_path)\n",
    "functions.py": "model = model.cuda()\nkept = (kept_filter_idx[::squared_factor] /\n  factor)\n",
    "network_utils/__init__.py": "from .network_utils_alexnet import *\n",
}


def official_code(folder: Path, worker_log: str = "Accuracy after finetune: 80") -> Path:
    """A folder with what the official code is patched for, whose master writes the files of a search at once."""
    for name, text in OFFICIAL.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("WORKER_LOG", repr(worker_log)))
    return folder


def run_official(official: Path, work: Path) -> dict[str, object]:
    work.mkdir()
    return official_netadapt.run_official(official, {}, Path("cifar.npz"), work, budget=0.5, steps=5, iterations=3)


def test_the_official_code_is_changed_in_a_copy_and_counted_by_all_of_its_processes(tmp_path: Path) -> None:
    official = official_code(tmp_path / "official")
    before = (official / "functions.py").read_text()
    outcome = run_official(official, tmp_path / "work")
    assert (outcome["search_cpu_s"], outcome["iterations"], outcome["macs"], outcome["met"]) == (3.5, 1, 0.48, True)
    assert (official / "functions.py").read_text() == before
    copied = (tmp_path / "work" / "code" / "functions.py").read_text()
    assert ".cuda()" not in copied and "//\n" in copied


def test_other_code_is_refused_by_name(tmp_path: Path) -> None:
    official = official_code(tmp_path / "official")
    (official / "worker.py").write_text("pass\n")
    with pytest.raises(ValueError, match=r"worker\.py"):
        official_netadapt.patched_copy(official, tmp_path / "copy")


def test_a_worker_that_fails_ends_the_official_search(tmp_path: Path) -> None:
    """Its master would wait for the worker's files for ever."""
    official = official_code(tmp_path / "official", "Traceback (most recent call last): no such module")
    with pytest.raises(RuntimeError, match="no such module"):
        run_official(official, tmp_path / "work")


def test_the_table_compares_each_search_with_the_official_code_on_its_network() -> None:
    ours = {"network": "convnet", "budget": "macs=0.5x", "method": "balanced", "search_cpu_s": 10.0, "search_s": 9.0}
    ours |= {"iterations": 7, "iteration_cpu_s": 1.2, "macs": 0.499, "met": True}
    official = {**ours, "method": "official", "steps": 500, "search_cpu_s": 300.0}
    lines = result_tables.search_speed([ours, {**ours, "network": "resnet20"}, official]).splitlines()
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["30.0x", "", ""]
    (unmet,) = result_tables.search_speed([{**ours, "met": False}]).splitlines()[2:]
    assert "not within" in unmet


def test_the_table_of_lazy_ranking_counts_winners_and_evaluations() -> None:
    row = {"network": "resnet20", "budget": "macs=0.5x", "seed": 0}
    row |= {"iterations": 10, "same": 9, "proposals": 200, "evaluated": 80}
    assert "| 9 of 10 iterations | 80 of 200 (40%) |" in result_tables.search_lazy([row])
