"""What `inspect` counts."""

from __future__ import annotations

from pathlib import Path

from models import plain
from netadapt_onnx.api.inspect import inspect
from netadapt_onnx.graph.model import save


def test_inspect_counts_what_the_file_holds(tmp_path: Path) -> None:
    path = save(plain((4, 8), size=8), tmp_path / "model.onnx")
    result = inspect(path)
    convs = 3 * 4 * 9 + 4 * 8 * 9
    assert result.model.params == convs + 2 * (4 + 8) + 8 * 10 + 10
    assert result.model.macs == 3 * 4 * 9 * 64 + 4 * 8 * 9 * 16 + 80
    assert result.model.size_bytes == path.stat().st_size
    assert [(g.name, g.channels, g.prunable) for g in result.groups] == [
        ("conv1", 4, True),
        ("conv2", 8, True),
        ("fc1", 10, False),
    ]
    assert {layer.name: layer.group for layer in result.layers if layer.op == "Conv"} == {
        "conv1": "conv1",
        "conv2": "conv2",
    }
