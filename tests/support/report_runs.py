"""Run directories that reports are written about."""

from __future__ import annotations

from pathlib import Path

import onnx

import models
import netadapt_onnx
from netadapt_onnx.cli import run as command

EVIL = '</script><img src="https://example.org/x" onerror="alert(1)">'


def finished(folder: Path, name: str = "conv2", budget: str = "macs=0.6x") -> Path:
    """A run of `adapt` whose second layer has this name; its accuracy is the size of the file."""
    b = models.Builder()
    x = b.relu(b.conv("image", 3, 8, name="conv1"))
    x = b.relu(b.conv(x, 8, 12, name=name))
    b.head(x, 12)
    onnx.save(b.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 10)}), folder / "model.onnx")
    run = folder / budget.replace("=", "-")
    netadapt_onnx.adapt(
        folder / "model.onnx",
        None,
        budget,
        run,
        step=1,
        init_reduction_ratio=0.15,
        evaluate=lambda proto: min(1.0, proto.ByteSize() / 8000),
    )
    return run


def scaled(folder: Path, *more: str) -> Path:
    """A run of `scale`: two sizes without training, by a law that is fitted to given records."""
    onnx.save(models.plain((8, 12), size=8, classes=3), folder / "net.onnx")
    rows = [f"{8 * share**0.4:.3f},{12 * share**0.6:.3f},{2000 * share:.0f}" for share in (1, 0.8, 0.6, 0.5, 0.4, 0.3)]
    (folder / "record.csv").write_text("\n".join(["conv1,conv2,params", *rows]) + "\n")
    arguments = ["scale", str(folder / "net.onnx"), "--targets", "0.5x,2x", "--fit", str(folder / "record.csv")]
    assert command([*arguments, "-o", str(folder / "sizes"), *more]) == 0
    return folder / "sizes"
