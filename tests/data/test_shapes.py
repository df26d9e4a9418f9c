"""How messages write shapes, and what they say where axes are in another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netadapt_onnx.data.load_dataset import read_dataset
from netadapt_onnx.data.shapes import layout_hint
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.shapes import Shape


@pytest.mark.parametrize(
    ("shape", "expected", "order"),
    [
        ((9, 32, 32, 3), (1, 3, 32, 32), (0, 3, 1, 2)),
        ((9, 3, 32, 32), (1, 32, 32, 3), (0, 2, 3, 1)),
        ((9, 48, 32, 3), (1, 3, 32, 48), (0, 3, 2, 1)),
        ((9, 40, 7), (1, 7, 40), (0, 2, 1)),
        ((9, 2, 3, 4, 5), (1, 5, 2, 3, 4), (0, 4, 1, 2, 3)),
    ],
)
def test_the_transposition_that_is_proposed_gives_the_shape(shape: Shape, expected: Shape, order: Shape) -> None:
    hint = layout_hint("x", shape, expected)
    assert hint == f"transpose it: x.transpose({', '.join(map(str, order))})"
    assert np.empty(shape).transpose(order).shape[1:] == expected[1:]


def test_a_missing_channel_axis_is_named() -> None:
    assert layout_hint("x", (9, 28, 28), (1, 1, 28, 28)) == "add the channel axis: x[:, None]"
    assert layout_hint("x", (9, 28, 28), (1, 28, 28, 1)) == "add the channel axis: x[..., None]"


@pytest.mark.parametrize("shape", [(9, 3, 16, 16), (9, 3072), (9,), (), (9, 32, 32, 4)])
def test_nothing_is_proposed_where_no_order_of_axes_fits(shape: Shape) -> None:
    assert layout_hint("x", shape, (1, 3, 32, 32)) == ""


def test_pictures_with_channels_last_are_told_how_to_be_transposed(tmp_path: Path) -> None:
    specs = {"image": ((1, 3, 8, 8), np.dtype(np.float32))}
    arrays = {"x_train": np.zeros((4, 8, 8, 3), np.float32), "y_train": np.arange(4)}
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(NetadaptError, match=r"x_train has shape 4x8x8x3.*x_train\.transpose\(0, 3, 1, 2\)"):
        read_dataset(tmp_path / "d.npz", specs, {"logits": (1, 10)})
    np.savez(tmp_path / "d.npz", **{**arrays, "x_train": arrays["x_train"].transpose(0, 3, 1, 2)})
    assert read_dataset(tmp_path / "d.npz", specs, {"logits": (1, 10)}).train.inputs["image"].shape == (4, 3, 8, 8)
