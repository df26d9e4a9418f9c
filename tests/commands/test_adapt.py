"""`adapt` through the command line: its document, its exit codes, its run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models import plain, residual
from netadapt_onnx import cli
from netadapt_onnx.graph.model import load
from sample_data import brightest_channel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, another one, and data whose class is the brightest of three channels."""
    (tmp_path / "model.onnx").write_bytes(plain((8, 16), size=8, classes=3).SerializeToString())
    (tmp_path / "other.onnx").write_bytes(plain((8, 16), size=8, classes=3, seed=1).SerializeToString())
    brightest_channel(tmp_path / "data.npz", val=64, test=0)
    return tmp_path


def arguments(folder: Path, budget: str = "macs=0.5x", run: str = "run", model: str = "model.onnx") -> list[str]:
    return [
        *("adapt", str(folder / model), "--data", str(folder / "data.npz"), "--budget", budget),
        *("-o", str(folder / run), "--step", "1", "--init-reduction-ratio", "0.25", "--final-epochs", "2"),
    ]


def document(capsys: pytest.CaptureFixture[str], command: list[str], code: int = 0) -> dict[str, Any]:
    assert cli.run([*command, "--json"]) == code, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert err.count("\n") == (1 if code == 2 else 0)
    output: dict[str, Any] = json.loads(out)
    assert output["schema"] == 1
    assert output["ok"] is (code == 0)
    return output


def test_it_meets_its_budget_and_says_what_happened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, arguments(folder))
    assert output["met"] is True
    assert {"before", "after", "accuracy", "iterations", "seconds", "model"} <= set(output)
    assert 0.47 <= output["after"]["macs"] / output["before"]["macs"] <= 0.5
    assert set(output["accuracy"]) == {"before", "after", "metric", "split"}
    assert (output["accuracy"]["metric"], output["accuracy"]["split"]) == ("top1", "val")
    assert 0 <= output["accuracy"]["after"] <= 1
    assert output["iterations"] >= 1
    result = Path(output["model"])
    assert result == folder / "run" / "model.onnx"
    assert result.stat().st_size == output["after"]["size_bytes"]
    before, after = onnx.load(folder / "model.onnx"), onnx.load(result)
    onnx.checker.check_model(after, full_check=True)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.opset_import == before.opset_import
    assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]
    metadata = {p.key: p.value for p in after.metadata_props}
    assert metadata["netadapt_onnx.source_sha256"] == load(folder / "model.onnx").sha256
    assert metadata["netadapt_onnx.budget"] == "macs=0.5x"
    assert "adapt model.onnx" in metadata["netadapt_onnx.command"]

    # A finished run gives its result again; without --resume it is refused.
    again = document(capsys, [*arguments(folder), "--resume"])
    assert again == output
    assert document(capsys, arguments(folder), 2)["error"]["code"] == "exists"


def test_its_text_tells_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments(folder)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for part in ("iteration", "channels before", "macs", "top1 (val)", "macs=0.5x met", "next: netadapt-onnx evaluate"):
        assert part in out


def test_a_budget_above_the_cost_is_met_already(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, arguments(folder, "macs=1.5x"))
    assert output["met"] is True
    assert output["iterations"] == 0
    assert output["after"]["macs"] == output["before"]["macs"]
    assert any("nothing to do" in note for note in output["notes"])


def test_a_budget_below_the_smallest_model_exits_1_and_keeps_the_best(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = document(capsys, arguments(folder, "params=20"), 1)
    assert output["met"] is False
    assert output["after"]["params"] < output["before"]["params"]
    assert output["limits"][0]["value"] == output["after"]["params"] > 20
    onnx.checker.check_model(output["model"], full_check=True)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (["--budget", "macs=0.6x"], "budget"),
        (["--seed", "1"], "seed"),
        (["--criterion", "first"], "criterion"),
        (["MODEL"], "model"),
        (["DATA"], "data"),
    ],
)
def test_a_run_directory_of_another_run_is_refused_by_name(
    changed: list[str], difference: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document(capsys, [*arguments(folder, "macs=1.5x")])
    command = [*arguments(folder, "macs=1.5x"), "--resume"]
    if changed == ["MODEL"]:
        command[1] = str(folder / "other.onnx")
    elif changed == ["DATA"]:
        with np.load(folder / "data.npz") as arrays:
            np.savez(folder / "data.npz", **{k: v[:-1] for k, v in arrays.items()})
    elif changed[0] == "--budget":
        command[command.index("macs=1.5x")] = changed[1]
    else:
        command += changed
    before = (folder / "run" / "run.json").read_bytes()
    output = document(capsys, command, 2)
    assert "belongs to another run" in output["error"]["message"]
    assert f"{difference} is" in output["error"]["message"]
    assert (folder / "run" / "run.json").read_bytes() == before


def test_an_output_that_is_no_run_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.txt").write_text("precious")
    for command in (arguments(folder), [*arguments(folder), "--resume"]):
        assert document(capsys, command, 2)["error"]["code"] == "exists"
    assert [p.name for p in (folder / "run").iterdir()] == ["thesis.txt"]
    (folder / "file").write_text("precious")
    assert document(capsys, arguments(folder, run="file"), 2)["error"]["code"] == "exists"


def test_a_dry_run_shows_proposals_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p.name for p in folder.iterdir()}
    output = document(capsys, [*arguments(folder), "--dry-run"])
    assert [p["group"] for p in output["proposals"]] == ["conv1", "conv2"]
    assert all(p["resources"]["macs"] <= output["target"] for p in output["proposals"])
    assert {p.name for p in folder.iterdir()} == before
    assert cli.run([*arguments(folder), "--dry-run"]) == 0
    assert "conv2" in capsys.readouterr().out


def test_the_directory_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = arguments(folder)
    del command[command.index("-o") : command.index("-o") + 2]
    assert "-o" in document(capsys, command, 2)["error"]["message"]


@pytest.mark.parametrize(
    "option", [("--decay", "0"), ("--init-reduction-ratio", "2"), ("--step", "0"), ("--final-epochs", "-1")]
)
def test_numbers_out_of_range_are_refused_before_anything_is_written(
    option: tuple[str, str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = document(capsys, [*arguments(folder), *option], 2)
    assert option[0] in output["error"]["message"]
    assert not (folder / "run").exists()


def test_unlabelled_data_will_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.onnx").write_bytes(residual(8, size=8).SerializeToString())
    rng = np.random.default_rng(0)
    images = {f"x_{s}": rng.standard_normal((n, 3, 8, 8)).astype(np.float32) for s, n in (("train", 128), ("val", 64))}
    np.savez(folder / "data.npz", **images)
    output = document(capsys, arguments(folder, "params=0.7x"))
    assert output["met"] is True
    assert output["accuracy"]["metric"] == "agreement"
    assert output["accuracy"]["before"] == 1.0


def test_a_table_of_another_device_is_refused_by_what_differs_and_taken_by_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "t.jsonl"
    assert cli.run(["profile", str(folder / "model.onnx"), "--table", str(table), "--max-time", "20s", "--quiet"]) == 0
    header, *rest = table.read_text().splitlines()
    foreign = json.loads(header)
    foreign["device"]["cpu"] = "another processor"
    table.write_text("\n".join([json.dumps(foreign, separators=(",", ":")), *rest]) + "\n")
    capsys.readouterr()
    command = [*arguments(folder, "latency=0.8x"), "--table", str(table), "--dry-run"]
    error = document(capsys, command, 2)["error"]
    assert error["code"] == "other-device"
    assert "cpu: another processor there" in error["message"]
    assert "--force" in error["hint"]
    assert "proposals" in document(capsys, [*command, "--force"])
