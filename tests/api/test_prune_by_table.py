"""`prune --table`: what a table predicts of a cut, and the counts that it proposes in its place."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import netadapt_onnx
from models import plain, residual
from netadapt_onnx.cli import run as command
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.table import predict
from table_runs import run as write_table


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and its table on a device that takes three times as long for odd widths as for the original."""
    (tmp_path / "model.onnx").write_bytes(residual(32, size=8).SerializeToString())
    write_table(tmp_path / "t.jsonl", 0)
    weights = None

    def predicted(table: predict.Table, shapes: dict[str, tuple[int, ...]]) -> dict[str, float]:
        nonlocal weights
        weights = weights or {name: unit.name for name, unit in table.units.items()}
        convs = [shape for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 4]
        blocks = sum(-(-s[0] // 8) * -(-s[1] // 8) * (3 if s[0] % 8 else 1) for s in convs)
        return {next(iter(weights.values())): 1000.0 * blocks}

    monkeypatch.setattr(predict.Table, "predict_units", predicted)
    monkeypatch.setattr(predict.Table, "predict", lambda t, s: sum(predicted(t, s).values()) / 1000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_cut_that_is_slower_than_the_original_is_said_and_what_is_proposed_works_as_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["prune", "model.onnx", "--ratio", "0.1", "--table", "t.jsonl", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["after"]["latency_ms"] > document["before"]["latency_ms"]
    assert "predicted to be slower than the original" in document["note"]
    proposal = document["proposal"]
    assert proposal["words"] in document["note"]
    assert proposal["latency_ms"] < document["before"]["latency_ms"]
    words = ["prune", "model.onnx", *shlex.split(proposal["words"]), "--table", "t.jsonl", "--json"]
    assert command(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["after"]["latency_ms"] == pytest.approx(proposal["latency_ms"], rel=1e-9)
    assert {name: after for name, (before, after) in again["groups"].items() if after < before} == proposal["keep"]
    assert again["proposal"] is None and again["warning"] == ""


@pytest.mark.parametrize("form", [[], ["--json"], ["--quiet"]])
def test_a_cut_that_is_slower_is_warned_of_in_one_line_on_stderr(
    folder: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    assert command(["prune", "model.onnx", "--ratio", "0.1", "--table", "t.jsonl", *form]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(
        r"warning: the cut is predicted to be slower than the original: [\d.]+ ms, [\d.]+ before\n", err
    )
    if "--json" in form:
        document = json.loads(out)
        assert err == f"warning: the cut is {document['warning']}\n" and document["warning"] in document["note"]
    else:
        assert "predicted to be slower" in out


def test_words_name_no_group_that_keeps_all_of_its_channels(folder: Path) -> None:
    cut = netadapt_onnx.prune("model.onnx", ratio=0.1, table="t.jsonl")
    assert cut.proposal is not None and 0 < len(cut.proposal.keep) < len(cut.groups)
    named = [word.rpartition("=")[::2] for word in shlex.split(cut.proposal.words)[1::2]]
    assert {name: int(count) for name, count in named} == cut.proposal.keep
    assert all(count < cut.groups[name][0] for name, count in cut.proposal.keep.items())


def test_a_cut_that_is_no_faster_is_warned_of_and_one_of_nothing_is_not(folder: Path) -> None:
    name = next(iter(netadapt_onnx.prune("model.onnx", ratio=0.1).groups))
    count = netadapt_onnx.prune("model.onnx", ratio=0.1).groups[name][0]
    still = netadapt_onnx.prune("model.onnx", keep={name: count}, table="t.jsonl")
    assert still.warning == still.note == "" and still.proposal is None
    flat = netadapt_onnx.prune("model.onnx", ratio=0, table="t.jsonl")
    assert flat.warning == "" and flat.proposal is None


@pytest.mark.parametrize(("share", "word"), [(1.0, "no faster"), (0.999, "hardly faster")])
def test_a_cut_that_gains_less_than_the_error_of_the_table_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, share: float, word: str
) -> None:
    sizes: list[object] = []

    def predicted(table: predict.Table, shapes: dict[str, tuple[int, ...]]) -> float:
        sizes.append(shapes)
        return 1.0 if shapes == sizes[0] else share

    monkeypatch.setattr(predict.Table, "predict", predicted)
    cut = netadapt_onnx.prune("model.onnx", ratio=0.5, table="t.jsonl")
    assert cut.warning.startswith(f"predicted to be {word} than the original: ")
    assert cut.warning.endswith("% off") and cut.note == cut.warning and cut.proposal is None


def test_counts_that_the_user_names_are_not_lowered(folder: Path) -> None:
    counts = {name: after for name, (_, after) in netadapt_onnx.prune("model.onnx", ratio=0.1).groups.items()}
    free = netadapt_onnx.prune("model.onnx", ratio=0.1, table="t.jsonl").proposal
    assert free is not None and any(n < counts[name] for name, n in free.keep.items())
    named = netadapt_onnx.prune("model.onnx", keep=counts, table="t.jsonl")
    assert named.warning
    assert named.proposal is None or all(n >= counts[name] for name, n in named.proposal.keep.items())


def test_counts_that_a_device_likes_are_left_alone(folder: Path) -> None:
    cut = netadapt_onnx.prune("model.onnx", ratio=0.5, table="t.jsonl")
    assert cut.proposal is None and cut.note == ""
    assert cut.before.latency_ms is not None and cut.after.latency_ms is not None
    assert cut.after.latency_ms < cut.before.latency_ms


def test_a_table_of_another_model_is_refused(folder: Path) -> None:
    (folder / "other.onnx").write_bytes(plain().SerializeToString())
    with pytest.raises(NetadaptError, match="model"):
        netadapt_onnx.prune("other.onnx", ratio=0.5, table="t.jsonl")
    with pytest.raises(NetadaptError, match="no such file"):
        netadapt_onnx.prune("model.onnx", ratio=0.5, table="nowhere.jsonl")
