"""Augmented pictures: shifted and mirrored alike for a seed, with their labels."""

from __future__ import annotations

import numpy as np
import pytest

from netadapt_onnx.data.tasks import UNLABELLED
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.augment import augmented


def test_augmentation_moves_and_mirrors_each_image_alike_for_a_seed() -> None:
    images = np.arange(4 * 16 * 16, dtype=np.float32).reshape(4, 1, 16, 16) + 1
    inputs = {"x": images, "mask": images[:, 0]}
    first, second = (augmented(inputs, None, np.random.default_rng(1))[0] for _ in range(2))
    np.testing.assert_array_equal(first["x"], second["x"])
    np.testing.assert_array_equal(first["mask"], images[:, 0])
    kept = [np.isin(first["x"][i][first["x"][i] > 0], images[i]).mean() for i in range(4)]
    assert kept == [1.0] * 4
    assert not np.array_equal(first["x"], images)


def test_augmented_maps_of_classes_move_with_their_pictures() -> None:
    x = np.random.default_rng(0).integers(1, 5, (6, 1, 16, 16))
    inputs, labels = augmented({"image": x.astype(np.float32)}, x[:, 0], np.random.default_rng(1))
    assert isinstance(labels, np.ndarray)
    came_in = inputs["image"][:, 0] == 0
    assert came_in.any()
    assert (labels[came_in] == UNLABELLED).all()
    assert (labels[~came_in] == inputs["image"][:, 0][~came_in]).all()
    with pytest.raises(NetadaptError, match="cannot move labels that are maps of values; leave --augment out"):
        augmented({"image": x.astype(np.float32)}, x[:, 0].astype(np.float32), np.random.default_rng(1))
    with pytest.raises(NetadaptError, match="no input is a picture to shift and mirror: 'x' Nx8; leave --augment out"):
        augmented({"x": np.zeros((4, 8), np.float32)}, None, np.random.default_rng(1))
