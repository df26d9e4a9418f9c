"""Errors on a terminal wrap at words, and leave paths, commands and quotations whole."""

from __future__ import annotations

import io
import sys

import pytest

from netadapt_onnx import cli
from netadapt_onnx.common import render
from netadapt_onnx.common.wrap import wrapped, wrapped_cell

LINE = (
    "error: --data folder-of-mine/my-pictures.npz: no such file; run "
    "`netadapt-onnx inspect model.onnx --table t.jsonl` or pip install 'netadapt-onnx[adapt]', or name "
    "'a file with spaces.onnx', which the model's owner keeps"
)
PIECES = (
    "folder-of-mine/my-pictures.npz",
    "`netadapt-onnx inspect model.onnx --table t.jsonl`",
    "pip install 'netadapt-onnx[adapt]'",
    "'a file with spaces.onnx'",
)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_lines_break_at_words_alone(width: int) -> None:
    lines = wrapped(LINE, width).split("\n")
    assert " ".join(line.strip() for line in lines) == LINE
    for piece in PIECES:
        assert any(piece in line for line in lines)
    longest = max(map(len, PIECES)) + 4
    assert all(len(line) < max(width, longest) for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_line_that_fits_stays_as_it_is() -> None:
    assert wrapped("error: short", 80) == "error: short"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_errors_wrap_on_a_terminal_and_are_one_line_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    arguments = ["inspect", "a-model-that-nobody-has-ever-seen-here.onnx", "--shape", "x=1"]
    texts = []
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        assert cli.run(arguments) == 2
        texts.append(stream.getvalue())
    assert texts[0].count("\n") > 1
    assert texts[1].count("\n") == 1
    assert texts[0].replace("\n  ", " ") == texts[1]


@pytest.mark.parametrize(
    ("cell", "width", "lines"),
    [
        ("layer1.0.conv1", 14, ["layer1.0.conv1"]),
        ("layer1.0.conv1", 10, ["layer1.0.", "conv1"]),
        ("/layer1/layer1.0/conv1/Conv", 12, ["/layer1/", "layer1.0/", "conv1/Conv"]),
        ("BatchNormalization", 16, ["Batch", "Normalization"]),
        ("all groups at once", 10, ["all groups", "at once"]),
        ("conv1\nstage2.conv2", 8, ["conv1", "stage2.", "conv2"]),
        ("reallylongname", 6, ["really", "longna", "me"]),
        ("", 6, [""]),
    ],
)
def test_cells_break_between_words_and_the_parts_of_names(cell: str, width: int, lines: list[str]) -> None:
    assert wrapped_cell(cell, width).split("\n") == lines


def test_tables_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    text = render.table([["stage1.shortcut.conv1", "BatchNormalization", "1.18 M"]], ["layer", "op", "macs"])
    assert all(len(line) <= 40 for line in text.split("\n"))
    assert "stage1." in text and "Normalization" in text
