"""Which channel counts a search may try: steps, floors, freezes and first reductions, from flags or a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import netadapt_onnx
from models import plain, residual
from netadapt_onnx.cli import run as command
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.search.allowed_counts import allowed_counts, matching
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.trace import trace as traced
from sample_data import brightest_channel
from search_cases import hello_world, history, looked_up


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Groups conv1 (8), conv2 (12), conv3 (16): all convolutions."""
    return traced(fold(plain((8, 12, 16), size=8, classes=3)))


def coarse(trace: Trace, *options: Any, **more: Any) -> dict[str, tuple[int, ...]]:
    step, least, frozen, floors = (*options, *(4, 1, (), ())[len(options) :])
    return {r.group: r.coarse for r in allowed_counts(step, least, frozen, floors).choices(trace, **more)}


def test_steps_floors_and_freezes_shape_the_ladders(trace: Trace) -> None:
    assert coarse(trace, 4) == {"conv1": (4,), "conv2": (8, 4), "conv3": (12, 8, 4)}
    assert coarse(trace, ["4", "Conv=8"])["conv3"] == (8,)
    assert coarse(trace, 4, 8) == {"conv1": (), "conv2": (8,), "conv3": (12, 8)}
    assert coarse(trace, 4, 1, ["conv[12]"]) == {"conv3": (12, 8, 4)}
    assert coarse(trace, 4, 1, (), ["conv*=0.5x", "conv3=12"]) == {"conv1": (4,), "conv2": (8,), "conv3": (12,)}
    assert coarse(trace, 4, 1, (), {"conv2": 12})["conv2"] == ()


def test_an_automatic_step_is_the_tables(trace: Trace) -> None:
    best = {"conv1": (8, 2), "conv2": (12, 10), "conv3": (16, 9)}
    assert coarse(trace, "auto", counts=lambda g: best[g]) == {"conv1": (2,), "conv2": (10,), "conv3": (9,)}
    assert coarse(trace, ["auto", "Conv=8"], counts=lambda g: best[g])["conv3"] == (8,)
    assert coarse(trace, 4, counts=lambda g: best[g])["conv3"] == (12, 8, 4)


def test_layers_stand_for_their_groups() -> None:
    trace = traced(fold(residual()))
    group = next(g for g in trace.prunable if len(g.layers) > 1)
    assert matching(trace, group.layers[-1], "--freeze") == (group.name,)


def test_paths_stand_for_their_groups() -> None:
    proto = plain((8, 8))
    for node in proto.graph.node:
        if node.op_type == "Conv":
            node.name = f"/stem/{node.name}/Conv"
    trace = traced(fold(proto))
    assert matching(trace, "stem.conv1", "--floor") == ("/stem/conv1/Conv",)
    assert matching(trace, "stem.*", "--freeze") == ("/stem/conv1/Conv", "/stem/conv2/Conv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0,), "--step 0: at least 1"),
        (("Gemm=",), "--step Gemm=: at least 1"),
        (("soon",), "--step soon"),
        ((["Gemm=4"],), "--step Gemm=4: no group holds a layer of Gemm; groups hold Conv"),
        ((4, 0), "--min-channels 0"),
        ((4, 1, ["cnov1"]), "--freeze cnov1.*did you mean conv1"),
        ((4, 1, ["*"]), "every group is frozen"),
        ((4, 1, (), ["conv1"]), "--floor conv1: not GROUP=N"),
        ((4, 1, (), ["conv1=1.5"]), "--floor conv1=1.5"),
        ((4, 1, (), ["cnov1=4"]), "--floor cnov1.*did you mean conv1"),
    ],
)
def test_what_leaves_no_choice_is_refused(trace: Trace, options: tuple[Any, ...], message: str) -> None:
    with pytest.raises(NetadaptError, match=message):
        coarse(trace, *options)


@pytest.mark.parametrize("amount", ["730.8", "0.7308k", 730.8, "0.025x", "2.5%"])
def test_a_first_reduction_may_be_an_amount(tmp_path: Path, amount: str | float) -> None:
    """2.5% of 29,232 weights are 730.8."""
    netadapt_onnx.adapt(
        hello_world(tmp_path), None, "params=0.5x", tmp_path / "run", evaluate=looked_up, criterion="first", step=1,
        decay=1.0, init_reduction=amount, init_reduction_ratio=0.5, max_iterations=3,
    )  # fmt: skip
    assert [s["resources"]["params"] for s in history(tmp_path / "run")] == [28476, 27531, 26181]


@pytest.mark.parametrize("amount", ["12ms", "2x", "-3", "x"])
def test_a_first_reduction_in_another_unit_is_refused(amount: str) -> None:
    with pytest.raises(NetadaptError, match=r"--init-reduction .* is not an amount of params"):
        AdaptOptions(budget=("params=0.5x",), init_reduction=amount)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/model.onnx").write_bytes(plain((8, 12, 16), size=8, classes=3).SerializeToString())
    brightest_channel(tmp_path / "files/data.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


CONFIGURED = """
[adapt]
data = "files/data.npz"
budget = {macs = "0.5x"}
step = [2, "Conv=4"]
decay = 1.0
floor = {conv3 = 12}
freeze = "conv1"
"""


def planned(capsys: pytest.CaptureFixture[str], *flags: str, code: int = 0) -> dict[str, Any]:
    assert command(["adapt", "files/model.onnx", "--dry-run", "--json", *flags]) == code
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    return plan


def test_a_configuration_gives_defaults_and_flags_win(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "netadapt.toml").write_text(CONFIGURED)
    plan = planned(capsys)
    assert {p["group"]: p["channels"] for p in plan["proposals"]} == {"conv2": [12, 8], "conv3": [16, 12]}
    plan = planned(capsys, "--freeze", "conv3", "--budget", "params=0.9x")
    assert plan["driver"] == "params"
    assert [p["group"] for p in plan["proposals"]] == ["conv1", "conv2"]


def test_the_configuration_may_stand_in_pyproject(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = CONFIGURED.replace("[adapt]", "[tool.netadapt-onnx.adapt]")
    (folder / "files/pyproject.toml").write_text(inside.replace("files/", ""))
    plan = planned(capsys, "--config", "files/pyproject.toml")
    assert [p["group"] for p in plan["proposals"]] == ["conv2", "conv3"]


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("dekay = 1", "unknown key 'dekay' in adapt", "did you mean decay?"),
        ("final-epochs = 'x'", "adapt.final-epochs: 'x' is neither auto nor a whole number", ""),
        ("rank = 'guess'", "adapt.rank: 'guess' is not one of", ""),
        ("resume = true", "unknown key 'resume' in adapt", ""),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, message: str, hint: str
) -> None:
    (folder / "netadapt.toml").write_text(f"[adapt]\n{line}\n")
    error = planned(capsys, "--data", "files/data.npz", "--budget", "macs=0.5x", code=2)["error"]
    assert message in error["message"]
    assert hint in error["hint"]
