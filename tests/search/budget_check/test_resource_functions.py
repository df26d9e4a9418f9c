"""Energy and what a user's program measures are budgets like any other: predicted, measured, judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from netadapt_onnx import cli
from netadapt_onnx.api.adapt import adapt, dry_run
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.energy import Rapl
from netadapt_onnx.search.budget_check import resource_functions
from netadapt_onnx.search.budget_check.resource_functions import program
from search_cases import FAST

pytestmark = pytest.mark.usefixtures("fixed_training_settings")

# Counts multiply-accumulates roughly: a weight's elements; prints chatter first.
PROGRAM = """
import sys, onnx
model = onnx.load(sys.argv[-1])
print("measuring")
print(7 + sum(len(t.raw_data) for t in model.graph.initializer) / 4)
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    (tmp_path / "my meter.py").write_text(PROGRAM)
    return f"{sys.executable} '{tmp_path / 'my meter.py'}'"


def weights(proto: onnx.ModelProto) -> float:
    return 7 + sum(len(t.raw_data) for t in proto.graph.initializer) / 4


def test_a_users_program_is_a_resource(
    task: tuple[Path, Path], tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["adapt", str(task[0]), "--data", str(task[1]), "-o", str(tmp_path / "run"), "--json"]
    options = ["--step", "4", "--init-reduction-ratio", "0.4", "--final-epochs", "0", "--resource-command", command]
    assert cli.run([*arguments, *options, "--budget", "custom=0.5x"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["met"] is True
    results = answer["measured"]["custom"]
    assert results["after"] == pytest.approx(weights(onnx.load(tmp_path / "run/model.onnx")), rel=1e-3)
    assert results["ratio"] <= 0.5
    assert results["predicted"] == pytest.approx(results["after"], rel=0.2)
    assert answer["latencies"] == {}


def test_a_function_is_a_resource_and_a_run_remembers_its_measurements(task: tuple[Path, Path], tmp_path: Path) -> None:
    calls = []

    def value(proto: onnx.ModelProto) -> float:
        calls.append(1)
        return weights(proto)

    budget = {"custom": 0.8 * weights(onnx.load(task[0]))}
    first = adapt(*task, budget, tmp_path / "run", resource_command=value, **FAST)
    assert first.met
    seen = len(calls)
    (tmp_path / "run/result.json").unlink()
    again = adapt(*task, budget, tmp_path / "run", resource_command=value, resume=True, **FAST)
    assert again.measured == first.measured
    assert len(calls) == seen
    assert dry_run(*task, "custom=0.8x", resource_command=value, step=2).driver == "custom"


def test_numbers_of_functions_may_be_numpys_but_must_be_numbers(task: tuple[Path, Path], tmp_path: Path) -> None:
    def value(proto: onnx.ModelProto) -> float:
        return np.int64(weights(proto))  # type: ignore[return-value]

    assert adapt(*task, "custom=0.8x", tmp_path / "run", resource_command=value, **FAST).met
    for wrong, message in ((None, "returned None"), (float("nan"), "returned nan")):
        with pytest.raises(NetadaptError, match=message):
            adapt(*task, "custom=0.8x", tmp_path / str(wrong), resource_command=lambda _, w=wrong: w, **FAST)


def test_programs_that_do_not_measure_are_told(task: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(task[0])
    for words, message in (
        ("no-such-program", "no program no-such-program"),
        (f"{sys.executable} -c 'import sys; sys.exit(\"no meter\")'", r"failed \(1\): no meter"),
        (f"{sys.executable} -c 'print(\"watts\")'", "printed 'watts'"),
        (f"{sys.executable} -c 'print(0)'", "printed '0'"),
        (f"{sys.executable} -c 'print(float(\"nan\"))'", "printed 'nan'"),
        (f"{sys.executable} -c ''", "printed 'nothing'"),
    ):
        with pytest.raises(NetadaptError, match=message):
            program(words)(model)
    with pytest.raises(NetadaptError, match="needs --resource-command"):
        adapt(*task, "custom=0.5x", tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()


def test_programs_that_hang_are_ended(task: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_functions, "PROGRAM_S", 0.3)
    with pytest.raises(NetadaptError, match="took longer"):
        program(f"{sys.executable} -c 'import time; time.sleep(60)'")(onnx.load(task[0]))


def test_energy_is_a_resource_where_it_can_be_measured(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(_: str) -> Rapl:
        raise NetadaptError("energy is unmeasurable: nothing here", code="unmeasurable")

    monkeypatch.setattr(resource_functions, "meter", nothing)
    arguments = ["adapt", str(task[0]), "--data", str(task[1]), "-o", str(tmp_path / "run"), "--budget", "energy=5mJ"]
    assert cli.run([*arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unmeasurable"
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(resource_functions, "energy", lambda *_: weights)
    result = adapt(*task, "energy=0.6x", tmp_path / "run", **FAST)
    assert result.met
    assert result.measured["energy"].ratio <= 0.6
