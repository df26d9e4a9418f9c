"""Who does a search's proposals never changes what it comes to."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import netadapt_onnx
from models import plain
from netadapt_onnx.cli import run as command
from netadapt_onnx.search.executors.in_process import InProcess
from netadapt_onnx.search.executors.protocol import OnOutcome, Outcome, Request, Shared, Work
from netadapt_onnx.training import choose_settings, settings
from sample_data import brightest_channel
from search_cases import outcome

RAY = pytest.param("ray", marks=pytest.mark.skipif("NETADAPT_RAY" not in os.environ, reason="make test-ray"))
WAYS: dict[str, dict[str, Any]] = {
    "reconstruct": {"init_reduction_ratio": 0.25, "final_epochs": 0, "save_interval": 9},
    "finetune": {"init_reduction_ratio": 0.3, "final_epochs": 0, "rank": "finetune", "short_term": 2},
}


class Backwards(InProcess):
    """Does the last job first."""

    def run(
        self,
        work: Work,
        shared: Sequence[Shared],
        requests: Sequence[Request],
        on_outcome: OnOutcome,
        *,
        threaded: bool = False,
    ) -> list[Outcome]:
        last = len(requests) - 1
        turned = super().run(work, shared, requests[::-1], lambda n, o: on_outcome(last - n, o), threaded=threaded)
        return turned[::-1]


class Interrupted(InProcess):
    """Does one job of the second list, and then somebody presses Ctrl-C."""

    lists = 0

    def run(
        self,
        work: Work,
        shared: Sequence[Shared],
        requests: Sequence[Request],
        on_outcome: OnOutcome,
        *,
        threaded: bool = False,
    ) -> list[Outcome]:
        self.lists += 1
        if self.lists == 1:
            return super().run(work, shared, requests, on_outcome, threaded=threaded)
        super().run(work, shared, requests[:1], on_outcome, threaded=threaded)
        raise KeyboardInterrupt


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    # What is chosen by the clock is journalled; two runs that are to be compared must choose alike.
    monkeypatch.setattr(choose_settings, "choose_settings", lambda *_, **__: settings.Settings(replicas=2))
    (tmp_path / "model.onnx").write_bytes(plain((8, 12, 16), size=8, classes=3).SerializeToString())
    return tmp_path / "model.onnx", brightest_channel(tmp_path / "data.npz")


@pytest.mark.parametrize("executor", ["local:2", pytest.param(Backwards(2, 60.0), id="backwards"), RAY])
@pytest.mark.parametrize("way", WAYS)
def test_every_executor_comes_to_the_same(task: tuple[Path, Path], tmp_path: Path, executor: Any, way: str) -> None:
    for name, one in (("here", "local"), ("there", executor)):
        netadapt_onnx.adapt(*task, "macs=0.5x", tmp_path / name, step=2, executor=one, **WAYS[way])
    assert len(outcome(tmp_path / "here")[0].splitlines()) >= 2
    assert outcome(tmp_path / "here") == outcome(tmp_path / "there")


def test_labels_and_samples_do_not_matter_to_that(task: tuple[Path, Path], tmp_path: Path) -> None:
    """More samples than are calibrated and ranked with: workers get those alone. No labels: the original judges."""
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.standard_normal((1100, 3, 8, 8)).astype(np.float32) for split in ("train", "val")}
    np.savez(tmp_path / "many.npz", **arrays)  # type: ignore[arg-type]
    for name in ("local", "local:2"):
        netadapt_onnx.adapt(
            task[0], tmp_path / "many.npz", "macs=0.6x", tmp_path / name, step=2, executor=name, **WAYS["reconstruct"]
        )
    assert outcome(tmp_path / "local") == outcome(tmp_path / "local:2")


def test_a_run_may_go_on_with_another_executor(task: tuple[Path, Path], tmp_path: Path) -> None:
    options = {"step": 2, **WAYS["reconstruct"]}
    netadapt_onnx.adapt(*task, "macs=0.5x", tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        netadapt_onnx.adapt(*task, "macs=0.5x", tmp_path / "run", executor=Interrupted(1, 60.0), **options)
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 1
    netadapt_onnx.adapt(*task, "macs=0.5x", tmp_path / "run", resume=True, executor="local:1", **options)
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "run")


def test_the_callers_function_judges_in_workers_too(task: tuple[Path, Path], tmp_path: Path) -> None:
    here = os.getpid()

    def evaluate(proto: onnx.ModelProto) -> float:
        assert threading.current_thread() is threading.main_thread() or os.getpid() == here
        dims = [tensor.dims[0] for tensor in proto.graph.initializer]
        return float(sum(dims)) / 1000

    for name in ("local", "local:2"):
        netadapt_onnx.adapt(
            task[0],
            None,
            "macs=0.5x",
            tmp_path / name,
            step=2,
            init_reduction_ratio=0.25,
            evaluate=evaluate,
            executor=name,
        )
    assert outcome(tmp_path / "local") == outcome(tmp_path / "local:2")


def test_a_proposal_that_kills_its_worker_costs_the_run_nothing_else(task: tuple[Path, Path], tmp_path: Path) -> None:
    def evaluate(proto: onnx.ModelProto) -> float:
        dims = {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer}
        if dims["conv2.weight"] < 12:
            os.abort()
        return float(sum(dims.values())) / 1000

    options: dict[str, Any] = {"step": 2, "init_reduction_ratio": 0.25, "evaluate": evaluate, "executor": "local:2"}
    result = netadapt_onnx.adapt(task[0], None, "macs=0.5x", tmp_path / "run", **options)
    assert result.met
    assert result.groups["conv2"] == (12, 12)
    logs = list((tmp_path / "run").glob("iterations/*/proposals/*/error.txt"))
    assert logs
    assert all("SIGABRT" in log.read_text() for log in logs)


def test_the_command_takes_an_executor(
    task: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["adapt", *map(str, task[:1]), "--data", str(task[1]), "--budget", "macs=0.8x", "--final-epochs", "0"]
    assert command([*fixed, "-o", str(tmp_path / "run"), "--executor", "local", "--gpus", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    for flags, message in (
        (["--executor", "kubernetes"], "local, local:N, ray or ray:ADDRESS"),
        (["--gpus", "one"], "not numbers of GPUs"),
        (["--job-timeout", "soon"], "--job-timeout soon: not a duration"),
        (["--job-timeout", "0s"], "--job-timeout 0s: not a duration"),
    ):
        assert command([*fixed, "-o", str(tmp_path / "no"), *flags]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
