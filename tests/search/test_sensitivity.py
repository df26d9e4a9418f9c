"""`inspect --sensitivity`: each group cut alone, judged on held-out samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import netadapt_onnx
from models import plain
from netadapt_onnx.api.inspect import Sensitive
from netadapt_onnx.api.prune import prune
from netadapt_onnx.cli import run as command
from netadapt_onnx.common import charts
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import session as session_of
from sample_data import brightest_channel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose last layer was fitted, so that channels matter."""
    proto = plain((8, 12, 16), size=8, classes=3)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    brightest_channel(tmp_path / "data.npz", labelled=False)
    return tmp_path


def test_every_group_is_cut_alone_at_every_share(folder: Path) -> None:
    result = netadapt_onnx.inspect(folder / "model.onnx", sensitivity=True, data=folder / "data.npz")
    assert isinstance(result, Sensitive)
    rows = result.sensitivity.groups
    assert [(r.group, r.channels) for r in rows] == [
        ("conv1", 6), ("conv1", 4), ("conv1", 2), ("conv2", 9), ("conv2", 6), ("conv2", 3),
        ("conv3", 12), ("conv3", 8), ("conv3", 4),
    ]  # fmt: skip
    original = result.sensitivity
    assert (original.accuracy, original.metric, original.split) == (1.0, "agreement", "val")
    assert all(r.lost == result.sensitivity.accuracy - r.mended for r in rows)
    # The accuracy of one of them, counted by hand.
    prune(folder / "model.onnx", folder / "cut.onnx", keep={"conv3": 4})
    x = np.load(folder / "data.npz")["x_val"]
    classes = []
    for name in ("model", "cut"):
        session = session_of(onnx.load(folder / f"{name}.onnx"))
        classes.append(session.run(None, {session.get_inputs()[0].name: x})[0].reshape(len(x), -1).argmax(1))
    assert rows[-1].accuracy == pytest.approx(float(np.mean(classes[0] == classes[1])))


def test_it_is_shown_as_a_table_and_a_plot(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not charts.available():
        pytest.skip("no vl-convert")
    arguments = ["inspect", str(folder / "model.onnx"), "--sensitivity", "--data", str(folder / "data.npz")]
    assert command([*arguments, "--plot", str(folder / "s.svg")]) == 0
    assert "conv2" in capsys.readouterr().out
    assert (folder / "s.svg").read_text().startswith("<svg")
    assert command([*arguments, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sensitivity"]["groups"]) == 9
    assert command([*arguments, "--plot", str(folder / "s.svg")]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sensitivity"], "needs data"),
        (["--plot", "x.svg"], "--plot draws --sensitivity"),
        (["--sensitivity", "--plot", "x.txt"], "an .svg"),
    ],
)
def test_what_cannot_be_tested_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert command(["inspect", str(folder / "model.onnx"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_an_explanation_and_a_sensitivity_are_two_questions(folder: Path) -> None:
    with pytest.raises(NetadaptError, match="two questions"):
        netadapt_onnx.inspect(folder / "model.onnx", sensitivity=True, data=folder / "data.npz", explained="conv1")
