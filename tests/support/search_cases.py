"""A search whose answer is known, options of quick searches, and what a run directory says of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import netadapt_onnx
from models import Builder, overridable, plain
from netadapt_onnx.search.result import AdaptResult
from sample_data import brightest_channel

FAST: dict[str, Any] = {"step": 2, "init_reduction_ratio": 0.2, "final_epochs": 1}
UNTRAINED = {**FAST, "final_epochs": 0}

HELLO_WORLD = {"conv1": 16, "conv2": 32, "conv3": 64}
# Accuracy by which of conv1, conv2 and conv3 differ from the original.
HELLO_WORLD_ACCURACY = {"": 95.0, "1": 1.0, "2": 5.0, "3": 80.0, "13": 85.0, "23": 10.0, "123": 90.0}
KNOWN_WIDTHS = [(16, 32, 62), (13, 32, 62), (13, 30, 62)]


def hello_world(folder: Path) -> Path:
    """Four 3x3 convs without bias, 3-16-32-64-10."""
    b = Builder()
    x = "image"
    for i, (cin, cout) in enumerate([(3, 16), (16, 32), (32, 64), (64, 10)]):
        x = b.conv(x, cin, cout, bias=False)
        x = b.relu(x) if i < 3 else x
    path = folder / "hello_world.onnx"
    path.write_bytes(b.model({"image": ("N", 3, 32, 32)}, {"conv4_out": ("N", 10, 32, 32)}).SerializeToString())
    return path


def widths_of(proto: onnx.ModelProto) -> tuple[int, ...]:
    """Channels of the three prunable convs."""
    dims = {t.name: t.dims[0] for t in proto.graph.initializer}
    return tuple(dims[f"{name}.weight"] for name in HELLO_WORLD)


def looked_up(proto: onnx.ModelProto) -> float:
    """The accuracy of a cut of `hello_world`, from the table above."""
    changed = [str(i) for i, n in enumerate(widths_of(proto), 1) if n != HELLO_WORLD[f"conv{i}"]]
    return HELLO_WORLD_ACCURACY.get("".join(changed), 95.0)


def adapt_hello_world(folder: Path, **more: object) -> AdaptResult:
    """The known answer's search: params after 3 iterations, the first filters kept."""
    arguments: dict[str, object] = {"max_iterations": 3} | more
    return netadapt_onnx.adapt(
        folder / "hello_world.onnx",
        None,
        "params=0.5x",
        folder / "run",
        criterion="first",
        decay=1.0,
        step=1,
        **({"evaluate": lambda proto: looked_up(proto) / 100} | arguments),  # type: ignore[arg-type]
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Three prunable convs of 8, 12 and 16 channels."""
    path = tmp_path / "model.onnx"
    path.write_bytes(plain((8, 12, 16), size=8, classes=3).SerializeToString())
    return path


@pytest.fixture
def task(model: Path) -> tuple[Path, Path]:
    """The model, and data labelled by whichever channel of an image is brightest."""
    return model, brightest_channel(model.with_name("data.npz"))


def overridable_task(folder: Path) -> tuple[Path, Path]:
    """A file whose initializers are listed among its inputs, so that normalising it may gain time; and data."""
    path = folder / "model.onnx"
    path.write_bytes(overridable(plain((8, 12, 16), size=8, classes=3)).SerializeToString())
    return path, brightest_channel(folder / "data.npz")


def history(run: Path) -> list[dict[str, Any]]:
    """The accepted iterations of a run directory, in order."""
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def journal(run: Path) -> dict[str, Any]:
    """What a run wrote down before it used it, by key."""
    return {entry["key"]: entry["value"] for entry in map(json.loads, (run / "journal.jsonl").read_text().splitlines())}


def outcome(run: Path) -> tuple[str, bytes, dict[str, Any]]:
    """What two runs that came to the same have in common: history, model and result but for its seconds."""
    result = json.loads((run / "result.json").read_text()) | {"seconds": 0}
    return (run / "history.jsonl").read_text(), (run / "model.onnx").read_bytes(), result
