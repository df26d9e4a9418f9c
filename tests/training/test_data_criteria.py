"""Criteria on data, from the command line and in a search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import models
from criterion_cases import images, labelled, logits
from netadapt_onnx.api.prune import prune
from netadapt_onnx.cli import run as cli
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.surgery.criteria.selection import MEASURED


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    model = save(models.plain((8, 12, 16)), tmp_path / "model.onnx")
    x = images(96)
    y = labelled(load(model).proto, 96).labels
    assert y is not None
    np.savez(tmp_path / "data.npz", x_train=x[:64], y_train=y[:64], x_val=x[64:], y_val=y[64:])
    return model, tmp_path / "data.npz"


@pytest.mark.parametrize("name", MEASURED)
def test_prune_by_data_from_the_command_line(
    name: str, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = files
    written = {}
    for criterion in ("l2", name):
        out = tmp_path / f"{criterion}.onnx"
        words = [
            "prune",
            model,
            "-o",
            out,
            "--ratio",
            "0.5",
            "--global",
            "--criterion",
            criterion,
            "--verify",
            "--json",
        ]
        if criterion == name:
            words += ["--data", data]
        assert cli(list(map(str, words))) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["verify"]["exact"]
        assert sum(after for _, after in document["groups"].values()) == 18
        written[criterion] = (tmp_path / f"{criterion}.plan.toml").read_text()
    assert written["l2"] != written[name]


@pytest.mark.parametrize(("criterion", "default"), [("fisher", False), ("obs", True)])
def test_reconstruction_is_asked_for_beside_criteria_that_do_not_count_on_it(
    criterion: str, default: bool, files: tuple[Path, Path], tmp_path: Path
) -> None:
    model, data = files
    outputs = {}
    for reconstruct in (None, False, True):
        out = tmp_path / f"{reconstruct}.onnx"
        prune(model, out, ratio=0.5, criterion=criterion, data=data, reconstruct=reconstruct)
        outputs[reconstruct] = logits(load(out).proto, images(8))
    np.testing.assert_array_equal(outputs[None], outputs[default])
    assert not np.allclose(outputs[False], outputs[True])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ratio", "0.5", "--criterion", "taylor"], "--criterion taylor needs inputs; give --data"),
        (["--ratio", "0.5", "--reconstruct"], "--reconstruct needs inputs; give --data"),
        (["--ratio", "0.5", "--data", "DATA"], "nothing looks at --data"),
        (["--keep", "conv1=4", "--global"], "--global ranks all groups together"),
        (["--ratio", "0.5", "--criterion", "tailor"], "no criterion 'tailor'; did you mean taylor"),
        (["--ratio", "0.5", "--criterion", "fisher", "--data", "nowhere.npz"], "nowhere.npz: no such file"),
    ],
)
def test_what_is_missing_is_said(
    words: list[str], message: str, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    model, data = files
    assert cli(["prune", str(model), *(str(data) if w == "DATA" else w for w in words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0])


@pytest.mark.seconds
@pytest.mark.parametrize("criterion", ["fisher", "auto"])
def test_adapt_follows_a_criterion_on_data_and_resumes_to_the_same(
    criterion: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    from netadapt_onnx.api.adapt import adapt

    model, data = files
    results = []
    for name, limits in (("whole", [3]), ("resumed", [1, 3])):
        for limit in limits:
            result = adapt(
                model, data, "macs=0.5x", tmp_path / name, criterion=criterion, step=2, max_iterations=limit,
                final_epochs=0, resume=limit != limits[0],
            )  # fmt: skip
        results.append(result.model.read_bytes())
    assert results[0] == results[1]
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["identity"]["criterion"] == criterion
    by_l2 = adapt(model, data, "macs=0.5x", tmp_path / "l2", criterion="l2", step=2, max_iterations=3, final_epochs=0)
    assert by_l2.model.read_bytes() != results[0]
