"""`adapt` on small models: known answers through the public API, budgets met, bad input refused, reruns identical."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import netadapt_onnx
from models import plain, residual, unprunable
from netadapt_onnx.api.adapt import adapt, dry_run
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load
from netadapt_onnx.search import final_training, worker
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.training import choose_settings, trainer
from netadapt_onnx.training.settings import Settings
from sample_data import brightest_channel
from search_cases import (
    FAST,
    KNOWN_WIDTHS,
    hello_world,
    history,
    journal,
    looked_up,
    widths_of,
)

KNOWN_WEIGHTS = [28476, 27531, 26181]
KNOWN_ACCURACIES = [80.0, 85.0, 90.0]


@pytest.mark.parametrize("budget", ["params=0.5x", "params=0.9x", "params=26200"])
@pytest.mark.parametrize("resumed_at", [None, 1, 2])
def test_the_known_answer_through_the_public_api(tmp_path: Path, budget: str, resumed_at: int | None) -> None:
    model = hello_world(tmp_path)

    def go(iterations: int, resume: bool) -> AdaptResult:
        return netadapt_onnx.adapt(
            model, None, budget, tmp_path / "run", evaluate=looked_up, criterion="first", step=1, decay=1.0,
            max_iterations=iterations, resume=resume,
        )  # fmt: skip

    if resumed_at is not None:
        assert go(resumed_at, False).iterations == resumed_at
    result = go(3, resumed_at is not None)
    steps = history(tmp_path / "run")
    assert [s["resources"]["params"] for s in steps] == KNOWN_WEIGHTS
    assert [tuple(s["widths"].values()) for s in steps] == KNOWN_WIDTHS
    assert [s["accepted"]["accuracy"] for s in steps] == KNOWN_ACCURACIES
    small = load(result.model).proto
    assert widths_of(small) == KNOWN_WIDTHS[-1]
    dense = {t.name: onnx.numpy_helper.to_array(t) for t in load(model).proto.graph.initializer}
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}
    np.testing.assert_array_equal(kept["conv2.weight"], dense["conv2.weight"][:30, :13])
    assert (result.accuracy.before, result.accuracy.after) == (95.0, 90.0)
    assert result.met is (budget != "params=0.5x")


def test_a_macs_budget_is_met_and_landed_on(task: tuple[Path, Path], tmp_path: Path) -> None:
    model, samples = task
    result = adapt(model, samples, "macs=0.5x", tmp_path / "run", **FAST)
    assert result.met
    assert result.stopped == "met"
    assert 0.94 * 0.5 <= result.after.macs / result.before.macs <= 0.5
    assert (result.accuracy.metric, result.accuracy.split) == ("top1", "test")
    assert result.iterations == len(history(tmp_path / "run")) >= 2
    (limit,) = result.limits
    assert (limit.budget, limit.value, limit.met) == ("macs=0.5x", result.after.macs, True)
    before, after = onnx.load(model), onnx.load(result.model)
    onnx.checker.check_model(after, full_check=True)
    assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert after.opset_import == before.opset_import
    metadata = {p.key: p.value for p in after.metadata_props}
    assert metadata["netadapt_onnx.source_sha256"] == load(model).sha256
    assert metadata["netadapt_onnx.budget"] == "macs=0.5x"
    assert metadata["netadapt_onnx.command"].startswith(
        "netadapt-onnx adapt model.onnx --data data.npz --budget macs=0.5x"
    )


def test_every_budget_of_several_holds(task: tuple[Path, Path], tmp_path: Path) -> None:
    result = adapt(*task, ["params=0.6x", "size=6kB", "memory=0.9x"], tmp_path / "run", **FAST)
    assert result.met
    assert result.after.params <= 0.6 * result.before.params
    assert result.after.size_bytes <= 6000
    assert result.after.memory_bytes <= 0.9 * result.before.memory_bytes


def test_without_labels_the_original_is_the_judge(task: tuple[Path, Path], tmp_path: Path) -> None:
    samples = brightest_channel(tmp_path / "unlabelled.npz", labelled=False, test=0)
    result = adapt(task[0], samples, "macs=0.6x", tmp_path / "run", **FAST)
    assert result.met
    assert (result.accuracy.before, result.accuracy.metric, result.accuracy.split) == (1.0, "agreement", "val")


def test_proposals_may_be_finetuned_and_winners_trained(task: tuple[Path, Path], tmp_path: Path) -> None:
    few = {**FAST, "short_term": 2, "final_epochs": 0, "max_iterations": 1}
    tuned = adapt(*task, "macs=0.6x", tmp_path / "finetune", rank="finetune", **few)
    winner = adapt(*task, "macs=0.6x", tmp_path / "reconstruct", **few)
    assert not list(tmp_path.glob("*/iterations/*/proposals/*/model.onnx"))
    assert not list(tmp_path.glob("*/iterations/*/proposals/*/error.txt"))
    for result in (tuned, winner):
        assert (result.iterations, result.met, result.stopped) == (1, False, "max-iterations")
        assert result.after.macs < result.before.macs


@pytest.mark.parametrize("executor", ["local", "local:2"])
def test_workers_have_no_gpu_to_themselves_unless_gpus_says_so(
    task: tuple[Path, Path], tmp_path: Path, executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu: list[bool] = []

    def chosen(*_: object, gpu: bool = True, **__: object) -> Settings:
        on_gpu.append(gpu)
        return Settings()

    monkeypatch.setattr(choose_settings, "choose_settings", chosen)
    few = {**FAST, "short_term": 3, "final_epochs": 0, "max_iterations": 1}
    adapt(*task, "params=0.9x", tmp_path / "run", rank="finetune", executor=executor, **few)
    assert on_gpu == [executor == "local"]


def test_finalists_are_trained_and_one_of_them_wins(task: tuple[Path, Path], tmp_path: Path) -> None:
    few = {**FAST, "short_term": 2, "final_epochs": 0, "max_iterations": 1}
    adapt(*task, "macs=0.8x", tmp_path / "run", finalists=2, **few)
    (step,) = history(tmp_path / "run")
    trained = {t["group"]: t["finetuned"] for t in step["tried"] if t["finetuned"] is not None}
    assert len(trained) == min(2, len(step["tried"]))
    assert step["group"] in trained
    assert len(list(tmp_path.glob("run/iterations/001/finalists/*/result.json"))) == len(trained)


def test_the_final_training_may_augment_its_pictures(task: tuple[Path, Path], tmp_path: Path) -> None:
    few = {**FAST, "final_epochs": 1, "max_iterations": 1}
    trained = {}
    for augment in (False, True):
        run = tmp_path / str(augment)
        adapt(*task, "macs=0.8x", run, augment=augment, **few)
        trained[augment] = (run / "iterations" / "001" / "trained.onnx").read_bytes()
    assert trained[False] != trained[True]


def test_a_final_training_without_a_length_is_evaluated_and_never_below_the_search(
    task: tuple[Path, Path], tmp_path: Path
) -> None:
    few = {**FAST, "final_epochs": "auto", "max_iterations": 1}
    result = adapt(*task, "macs=0.8x", tmp_path / "run", **few)
    (step,) = history(tmp_path / "run")
    evaluations = journal(tmp_path / "run")["training/evaluations/1"]
    assert evaluations[0] == [0, step["accepted"]["accuracy"]]
    assert len(evaluations) > 2
    best = max(accuracy for _, accuracy in evaluations)
    helped = best > evaluations[0][1] or evaluations[-1][1] == best
    assert helped or any("did not improve" in note and "before" in note for note in result.notes)
    assert adapt(*task, "macs=0.8x", tmp_path / "run", resume=True, **few) == result


@pytest.mark.parametrize("how", ["only loses", "diverges"])
def test_a_final_training_that_does_not_help_is_explained(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "diverges":
        monkeypatch.setattr("netadapt_onnx.search.final_recipe.GENTLE", 1e6)
    else:
        monkeypatch.setattr(final_training.FinalTraining, "_score", lambda *_: -1.0)
    few = {**FAST, "final_epochs": 2, "max_iterations": 1}
    result = adapt(*task, "macs=0.8x", tmp_path / "run", **few)
    (note,) = [note for note in result.notes if "did not improve" in note]
    assert note.startswith("Fine-tuning did not improve accuracy, so it was discarded (")
    assert ("it diverged;" in note) is (how == "diverges")
    searched, model = (load(path).proto for path in (tmp_path / "run/iterations/001/model.onnx", result.model))
    values = [[onnx.numpy_helper.to_array(t).tobytes() for t in proto.graph.initializer] for proto in (searched, model)]
    assert values[0] == values[1]
    assert adapt(*task, "macs=0.8x", tmp_path / "run", resume=True, **few) == result


def test_a_resumed_run_may_leave_the_final_training_out_or_change_its_length(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    few = {**FAST, "max_iterations": 1}
    train = trainer.train

    def killed(*arguments: Any, **keywords: Any) -> Any:
        raise KilledError

    for name, epochs in (("none", 0), ("one", 1), ("three", 3)):
        run = tmp_path / name
        monkeypatch.setattr(trainer, "train", killed)
        with pytest.raises(KilledError):
            adapt(*task, "macs=0.8x", run, **{**few, "final_epochs": 2})
        monkeypatch.setattr(trainer, "train", train)
        result = adapt(*task, "macs=0.8x", run, resume=True, **{**few, "final_epochs": epochs})
        assert (run / "iterations/001/trained.onnx").exists() is bool(epochs)
        lines = (run / "iterations/001/training.jsonl").read_text().splitlines() if epochs else []
        assert len(lines) == epochs
        again = adapt(*task, "macs=0.8x", run, resume=True, **{**few, "final_epochs": 5})
        assert again == result


def test_residual_streams_are_cut_too(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(residual(8, size=8).SerializeToString())
    samples = brightest_channel(tmp_path / "data.npz", labelled=False)
    result = adapt(tmp_path / "model.onnx", samples, "macs=0.2x", tmp_path / "run", **FAST)
    assert result.met
    assert result.groups["conv1"][1] < 8


def test_the_file_has_the_widths_that_the_history_tells(task: tuple[Path, Path], tmp_path: Path) -> None:
    """Down to single channels and back up: a group of one channel is none when the cut model is traced again."""
    model = tmp_path / "narrow.onnx"
    model.write_bytes(plain((2, 16), size=8, classes=3).SerializeToString())
    for budget in ("params=60", "params=80", "params=120"):
        run = tmp_path / budget
        result = adapt(model, task[1], budget, run, step=1, init_reduction_ratio=0.25, final_epochs=0)
        dims = {t.name: t.dims[0] for t in load(result.model).proto.graph.initializer}
        assert {name: dims[f"{name}.weight"] for name in result.groups} == {n: w for n, (_, w) in result.groups.items()}
        assert result.after.params == history(run)[-1]["resources"]["params"]


def test_a_budget_that_holds_already_is_nothing_to_do(task: tuple[Path, Path], tmp_path: Path) -> None:
    result = adapt(*task, "macs=1.5x", tmp_path / "run")
    assert (result.met, result.stopped, result.iterations) == (True, "nothing-to-do", 0)
    assert result.accuracy.before == result.accuracy.after
    assert any("nothing to do" in note for note in result.notes)
    assert result.model.exists()


def test_a_budget_below_the_smallest_model_goes_as_far_as_it_can(task: tuple[Path, Path], tmp_path: Path) -> None:
    result = adapt(*task, "macs=0.0001x", tmp_path / "run", final_epochs=1)
    assert (result.met, result.stopped, result.iterations) == (False, "no-way-down", 1)
    assert set(result.groups.values()) == {(8, 1), (12, 1), (16, 1)}
    assert any(note.startswith("No widths meet the budget: the narrowest model still takes") for note in result.notes)
    guess = [note for note in result.notes if note.startswith("The original is right on ")]
    assert len(guess) == 1 and "as in the model's training" in guess[0]  # its weights are random
    assert adapt(*task, "macs=0.0001x", tmp_path / "run", final_epochs=1, resume=True) == result


def test_a_finished_run_returns_its_result(task: tuple[Path, Path], tmp_path: Path) -> None:
    result = adapt(*task, "macs=0.6x", tmp_path / "run", **FAST)
    written = result.model.stat().st_mtime_ns
    assert adapt(*task, "macs=0.6x", tmp_path / "run", resume=True, **FAST) == result
    assert result.model.stat().st_mtime_ns == written


def test_another_runs_directory_is_refused(task: tuple[Path, Path], tmp_path: Path) -> None:
    adapt(*task, "macs=0.8x", tmp_path / "run", **FAST)
    with pytest.raises(NetadaptError, match=r'budget is \["macs=0.8x"\] there, \["macs=0.7x"\] here'):
        adapt(*task, "macs=0.7x", tmp_path / "run", resume=True, **FAST)
    other = tmp_path / "other.onnx"
    other.write_bytes(plain((8, 12, 16), size=8, classes=3, seed=1).SerializeToString())
    with pytest.raises(NetadaptError, match="belongs to another run: model is"):
        adapt(other, task[1], "macs=0.8x", tmp_path / "run", resume=True, **FAST)
    with pytest.raises(NetadaptError, match="--resume"):
        adapt(*task, "macs=0.8x", tmp_path / "run", **FAST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "macs=none"}, "not an amount"),
        ({"budget": "latency=0.5x", "table": "missing.jsonl"}, "no such file"),
        ({"criterion": "l7"}, "--criterion l7"),
        ({"decay": 1.5}, "--decay 1.5"),
        ({"init_reduction_ratio": 0.0}, "--init-reduction-ratio 0"),
        ({"step": 0}, "--step 0"),
        ({"seed": -1}, "--seed -1"),
        ({"data": None}, "give --data"),
        ({"ep": "cuda", "budget": "latency=0.5x"}, "CUDAExecutionProvider"),
        ({"ep": "cuda", "budget": "macs=0.5x"}, "CUDAExecutionProvider"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    task: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {
        "model": task[0],
        "data": task[1],
        "budget": "macs=0.5x",
        "out": tmp_path / "run",
    } | changes
    with pytest.raises(NetadaptError, match=message):
        adapt(**arguments)
    assert not (tmp_path / "run").exists()


def test_proposals_that_all_fail_say_why_and_are_tried_again(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("no such kernel")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "reconstruct", fail)
        with pytest.raises(NetadaptError, match="iteration 1 failed: no such kernel") as caught:
            adapt(*task, "macs=0.8x", tmp_path / "run", **FAST)
    log = tmp_path / "run/iterations/001/proposals/000/error.txt"
    assert str(log) in caught.value.hint
    assert "no such kernel" in log.read_text()
    assert adapt(*task, "macs=0.8x", tmp_path / "run", resume=True, **FAST).met


def test_a_model_without_a_prunable_group_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(unprunable().SerializeToString())
    with pytest.raises(NetadaptError, match="no group of channels can be pruned: reaches graph output"):
        adapt(tmp_path / "model.onnx", brightest_channel(tmp_path / "data.npz"), "macs=0.5x", tmp_path / "run")


def test_a_dry_run_shows_the_first_proposals_and_writes_nothing(task: tuple[Path, Path], tmp_path: Path) -> None:
    files = set(tmp_path.iterdir())
    planned = dry_run(*task, "macs=0.5x", **FAST)
    assert set(tmp_path.iterdir()) == files
    adapt(*task, "macs=0.5x", tmp_path / "run", max_iterations=1, **FAST)
    (step,) = history(tmp_path / "run")
    tried = {t["group"]: t for t in step["tried"]}
    assert {p.group: p.channels[1] for p in planned.proposals} == {g: t["channels"] for g, t in tried.items()}
    assert all(p.resources["macs"] == tried[p.group]["resources"]["macs"] for p in planned.proposals)
    assert planned.target == step["target"]
