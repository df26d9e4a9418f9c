"""`export --json`: the fields of its document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from netadapt_onnx import cli


def test_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef make():\n    print('noise')\n"
        "    return torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)\n"
    )
    command = ["export", f"{tmp_path}/net.py:make", "-o", tmp_path / "net.onnx", "--exporter", "legacy"]
    assert cli.run([*map(str, command), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "noise\n"  # what the user's file prints does not break the document
    output = json.loads(out)
    assert {"model", "max_rel_diff", "params"} <= set(output)
    assert output["params"] == 3 * 4 * 9 + 4
