"""What most tests of searches begin with: a small model, and data that it can learn."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import plain
from sample_data import brightest_channel


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
