"""What a command prints with `--json`, and a model with data that it can learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models import plain
from netadapt_onnx import cli
from sample_data import brightest_channel

RESOURCES = {"params", "macs", "size_bytes", "memory_bytes", "latency_ms"}


@pytest.fixture(scope="module")
def learnable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and data that it can learn: the class is which channel is brightest, of ten shades."""
    place = tmp_path_factory.mktemp("json")
    (place / "model.onnx").write_bytes(plain((8, 16), size=8, classes=3).SerializeToString())
    brightest_channel(place / "data.npz", train=512, val=128, test=128)
    brightest_channel(place / "unlabelled.npz", labelled=False, train=512, val=128, test=128)
    return place


def document(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    """The fields of a command's document; nothing goes to stderr."""
    assert cli.run([*map(str, arguments), "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    output: dict[str, Any] = json.loads(out)
    assert output.pop("schema") == 1
    assert output.pop("ok") is (code == 0)
    assert "error" not in output
    return output
