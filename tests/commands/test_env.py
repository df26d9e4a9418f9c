"""`env --json`: the fields of its document."""

from __future__ import annotations

import pytest

from json_documents import document


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    output = document(capsys, "env")
    assert set(output) == {"versions", "providers", "cores", "fingerprint", "extras"}
    assert "CPUExecutionProvider" in output["providers"]
    assert {"cpu", "os", "arch", "onnxruntime", "threads"} <= set(output["fingerprint"])
    assert all(set(extra) == {"installed", "enables", "install"} for extra in output["extras"].values())
