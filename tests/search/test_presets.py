"""Whole runs by preset and strategy: who proposes, who competes at the end, and what a run says of its options."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from branch_cases import quiet_branch
from disturbed_device import size
from models import residual
from netadapt_onnx import cli
from netadapt_onnx.api.adapt import adapt, dry_run
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.evaluator import DataEvaluator
from netadapt_onnx.search.joint_iteration import TOGETHER
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.portfolio import PORTFOLIO
from netadapt_onnx.search.presets import NAMES, PRESETS
from sample_data import brightest_channel
from search_cases import (
    HELLO_WORLD_ACCURACY,
    KNOWN_WIDTHS,
    adapt_hello_world,
    hello_world,
    history,
    outcome,
    widths_of,
)

pytestmark = pytest.mark.usefixtures("fixed_training_settings")

QUICK: dict[str, Any] = {"step": 2, "init_reduction_ratio": 0.2, "final_epochs": 0}
# The methods that compete besides a search's own widths, where their widths differ from all others'.
METHODS = {"netadapt", "knapsack", "uniform"}


def quick(preset: str) -> dict[str, Any]:
    """The options of a preset, with few steps."""
    return {"preset": preset, **QUICK, **({"short_term": 2} if preset in ("paper", "thorough") else {})}


def methods(step: dict[str, Any]) -> list[str]:
    """The names of what competed in a step."""
    return [tried["group"] for tried in step["tried"]]


@pytest.mark.seconds
@pytest.mark.parametrize("preset", NAMES)
def test_every_preset_meets_its_budget_and_its_history_names_who_competed(
    task: tuple[Path, Path], tmp_path: Path, preset: str
) -> None:
    result = adapt(*task, "macs=0.5x", tmp_path / "run", **quick(preset) | {"final_epochs": 1})
    assert result.met
    assert result.after.macs <= 0.5 * result.before.macs
    steps = history(tmp_path / "run")
    assert all(step["tried"] for step in steps)
    compete = [step for step in steps if step["group"] == PORTFOLIO]
    trained = [[t["group"] for t in step["tried"] if t["finetuned"] is not None] for step in steps]
    if preset == "paper":
        assert all(step["group"] in methods(step) for step in steps)
        assert not compete and not any(trained)
        return
    (last,) = compete
    assert {name for name in methods(last) if not name.startswith("curves")} <= METHODS and "uniform" in methods(last)
    assert methods(last)[0] == ("curves" if preset == "fast" else "netadapt")
    if preset == "fast":
        assert [step["group"] for step in steps] == [TOGETHER, PORTFOLIO]
        assert not any(trained)
    else:
        assert last == steps[-1]
        assert "uniform" in trained[-1]
        assert all(bool(finalists) == (preset == "thorough") for finalists in trained[:-1])


@pytest.mark.seconds
@pytest.mark.parametrize("preset", NAMES)
def test_the_same_seed_gives_the_same_bytes_whoever_does_the_work(
    task: tuple[Path, Path], tmp_path: Path, preset: str
) -> None:
    for name, executor in (("here", "local"), ("workers", "local:1")):
        adapt(*task, "macs=0.6x", tmp_path / name, executor=executor, **quick(preset) | {"final_epochs": 1})
    assert outcome(tmp_path / "here") == outcome(tmp_path / "workers")


@pytest.mark.seconds
def test_steps_after_a_start_by_curves_have_a_quarter_of_the_way_to_go(task: tuple[Path, Path], tmp_path: Path) -> None:
    """In 20 iterations the usual steps save 0.35 of a resource, not the half that this budget asks for."""
    options: dict[str, Any] = {"step": 2, "max_iterations": 20, "final_epochs": 0, "portfolio": "off"}
    result = adapt(*task, "macs=0.5x", tmp_path / "run", **options)
    assert result.met
    assert not any("--decay" in note for note in result.notes)
    slow = adapt(*task, "macs=0.5x", tmp_path / "slow", **options, start="original")
    assert any("--decay" in note for note in slow.notes)


@pytest.mark.seconds
def test_the_curves_give_a_model_for_each_of_several_targets(task: tuple[Path, Path], tmp_path: Path) -> None:
    """Each is chosen anew from the original, and the groups are probed once for all of them."""
    budget = "macs=0.8x,0.6x,0.4x"
    result = adapt(*task, budget, tmp_path / "run", strategy="curves", portfolio="off", **QUICK)
    shares = [model.after.macs / result.before.macs for model in result.models]
    assert [model.met for model in result.models] == [True, True, True]
    assert shares == sorted(shares, reverse=True)
    assert all(0.7 * limit <= share <= limit for share, limit in zip(shares, (0.8, 0.6, 0.4), strict=True))
    steps = history(tmp_path / "run")
    assert {step["group"] for step in steps} == {TOGETHER}
    assert len(list((tmp_path / "run" / "probes").glob("*/result.json"))) == 3
    alone = adapt(*task, "macs=0.4x", tmp_path / "alone", strategy="curves", portfolio="off", **QUICK)
    assert alone.groups == result.groups


@pytest.mark.seconds
@pytest.mark.parametrize("preset", ["fast", "balanced"])
def test_a_branch_that_adds_next_to_nothing_goes_unless_blocks_are_kept(tmp_path: Path, preset: str) -> None:
    task = tmp_path / "model.onnx", brightest_channel(tmp_path / "data.npz", labelled=False, test=0)
    onnx.save(quiet_branch(np.load(task[1])["x_train"]), task[0])
    by_default = adapt(*task, "macs=0.4x", tmp_path / "run", **quick(preset))
    kept = adapt(*task, "macs=0.4x", tmp_path / "kept", keep_blocks=True, **quick(preset))
    assert by_default.removed == ("add1",)
    assert kept.removed == ()
    assert by_default.met and kept.met
    assert by_default.accuracy.after >= kept.accuracy.after
    assert not any(name.startswith("add") for step in history(tmp_path / "kept") for name in step["widths"])


def test_models_without_branches_are_refused_only_where_blocks_are_asked_for(
    task: tuple[Path, Path], tmp_path: Path
) -> None:
    assert dry_run(*task, "macs=0.5x", step=2).proposals
    with pytest.raises(NetadaptError, match="no branch adds to a tensor"):
        dry_run(*task, "macs=0.5x", allow_block_removal=True)
    (tmp_path / "residual.onnx").write_bytes(residual(8, size=8).SerializeToString())
    planned = dry_run(
        tmp_path / "residual.onnx", task[1], "macs=0.5x", preset="paper", allow_block_removal=True, step=2
    )
    assert planned.options["keep_blocks"] is False
    assert "add1" in {*planned.skipped, *(proposal.group for proposal in planned.proposals)}
    with pytest.raises(NetadaptError, match="contradict each other"):
        dry_run(*task, "macs=0.5x", allow_block_removal=True, keep_blocks=True)


def test_a_dry_run_says_where_its_proposals_are_not_what_the_run_does_first(task: tuple[Path, Path]) -> None:
    (note,) = dry_run(*task, "macs=0.5x", step=2).notes
    assert "--start original" in note and "95%" in note
    assert dry_run(*task, "macs=0.5x", step=2, start="original").notes == ()
    assert dry_run(*task, "macs=0.5x", step=2, preset="paper").notes == ()


@pytest.mark.parametrize("preset", NAMES)
def test_without_data_every_preset_gives_the_known_answer(tmp_path: Path, preset: str) -> None:
    hello_world(tmp_path)
    result = adapt_hello_world(tmp_path, preset=preset)
    assert widths_of(onnx.load(result.model)) == KNOWN_WIDTHS[-1]
    assert result.accuracy.after == HELLO_WORLD_ACCURACY["123"] / 100


@pytest.mark.parametrize(
    ("preset", "other", "follows"),
    [
        ("balanced", {"criterion": "taylor"}, {}),
        ("balanced", {"select": "accuracy"}, {}),
        ("balanced", {"proposals": "all"}, {}),
        ("balanced", {"portfolio": "off"}, {}),
        ("balanced", {"finalists": 2, "short_term": 2}, {}),
        ("fast", {"strategy": "knapsack"}, {}),
        ("fast", {"keep_blocks": True}, {}),
        ("thorough", {"finalists": 0}, {}),
        ("thorough", {"rank": "finetune"}, {"finalists": 0, "start": "original"}),  # all proposals are trained
        ("balanced", {"init_reduction_ratio": 0.1}, {"start": "original"}),  # the user says how far steps go
        ("balanced", {"init_reduction": "0.1x"}, {"start": "original"}),
        ("balanced", {"decay": 1.0}, {"start": "original"}),
        ("balanced", {"reduction_of": "current"}, {"start": "original"}),
        ("balanced", {"min_accuracy": 0.9}, {"start": "original"}),
        ("balanced", {"min_accuracy": 0.9, "start": "curves"}, {}),
        ("fast", {"min_accuracy": 0.9}, {"strategy": "netadapt", "start": "original"}),
        ("fast", {"min_accuracy": 0.9, "strategy": "curves"}, {"start": "original"}),
        ("thorough", {"strategy": "curves"}, {"finalists": 0}),  # there are no proposals
        ("thorough", {"short_term": 0}, {"finalists": 0}),  # for no steps
        ("paper", {"rank": "reconstruct"}, {}),
        ("paper", {"portfolio": "trained"}, {}),
        ("paper", {"allow_block_removal": True}, {"keep_blocks": False}),
    ],
)
def test_an_option_of_a_preset_may_be_given_otherwise(
    preset: Any, other: dict[str, Any], follows: dict[str, Any]
) -> None:
    options = AdaptOptions(budget=("macs=0.5x",), preset=preset, **other)
    expected = {
        **PRESETS[preset],
        **follows,
        **{name: value for name, value in other.items() if name in PRESETS[preset]},
    }
    assert {name: value for name, value in options.of_preset().items() if name in expected} == expected


@pytest.mark.seconds
def test_a_least_accuracy_that_one_step_cannot_keep_is_kept_by_many(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--preset fast` with a floor goes as far as it allows; curves that the user insists on say what would."""

    def share_of_weights(evaluator: DataEvaluator, proto: onnx.ModelProto) -> tuple[float, None]:
        return size(proto) / size(evaluator.original), None

    monkeypatch.setattr(DataEvaluator, "_evaluated", share_of_weights)
    options = QUICK | {"portfolio": "off", "preset": "fast", "min_accuracy": 0.6}
    in_steps = adapt(*task, "macs=0.3x", tmp_path / "steps", **options)
    assert in_steps.stopped == "accuracy-floor"
    assert 0.6 <= size(onnx.load(in_steps.model)) / size(onnx.load(task[0])) < 0.9
    at_once = adapt(*task, "macs=0.3x", tmp_path / "once", strategy="curves", **options)
    assert (at_once.stopped, at_once.iterations) == ("accuracy-floor", 0)
    assert any("--strategy netadapt --start original" in note for note in at_once.notes)


def test_a_runs_identity_and_command_repeat_the_preset_and_what_differs_from_it(
    task: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"preset": "fast", "step": ("2",), "final_epochs": 0, "keep_blocks": True, "select": "ratio"}
    result = adapt(*task, "macs=0.9x", tmp_path / "run", **options)
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    command = shlex.split(written["about"]["command"])
    assert command[command.index("--budget") :] == [
        *("--budget", "macs=0.9x", "--preset", "fast", "--step", "2", "--keep-blocks", "--final-epochs", "0")
    ]
    assert {name: written["identity"][name] for name in PRESETS["fast"]} == {**PRESETS["fast"], "keep_blocks": True}
    # The same run by its own command, and by a configuration file.
    command[2], command[4] = map(str, task)
    assert cli.run([*command[1:], "-o", str(tmp_path / "run"), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == str(result.model)
    (tmp_path / "netadapt.toml").write_text(
        '[adapt]\nbudget = ["macs=0.9x"]\npreset = "fast"\nstep = ["2"]\nkeep-blocks = true\nfinal-epochs = 0\n'
    )
    configured = ["adapt", *command[2:5], "--config", str(tmp_path / "netadapt.toml")]
    assert cli.run([*configured, "-o", str(tmp_path / "run"), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == str(result.model)
    # A flag wins over the file; then it is another run.
    assert cli.run([*configured, "--no-keep-blocks", "-o", str(tmp_path / "run"), "--resume", "--json"]) == 2
    assert "keep_blocks is true there, false here" in json.loads(capsys.readouterr().out)["error"]["message"]
