"""The `--data` layout: what is read, what is refused and in which words, and how it reaches the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netadapt_onnx.data.dataset import Dataset, Split, split_validation
from netadapt_onnx.data.load_dataset import read_dataset
from netadapt_onnx.errors import NetadaptError

SPECS = {"image": ((1, 3, 8, 8), np.dtype(np.float32))}
OUTPUTS = {"logits": (1, 10)}
RNG = np.random.default_rng(0)


def images(count: int, *shape: int) -> np.ndarray:
    return RNG.standard_normal((count, *(shape or (3, 8, 8)))).astype(np.float32)


def labels(count: int) -> np.ndarray:
    return np.asarray(RNG.integers(0, 10, count))


def write(folder: Path, **arrays: Any) -> Path:
    file = folder / "data.npz"
    np.savez(file, **arrays)
    return file


def read(folder: Path, **arrays: Any) -> Dataset:
    return read_dataset(write(folder, **arrays), SPECS, OUTPUTS)


def test_all_splits_are_read(tmp_path: Path) -> None:
    arrays = {f"{axis}_{split}": make(n) for split, n in (("train", 20), ("val", 8), ("test", 6))
              for axis, make in (("x", images), ("y", labels))}  # fmt: skip
    data = read(tmp_path, **arrays)
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (20, 8, 6)
    assert data.final_split == ("test", data.test)
    assert not data.val_from_train
    assert len(data.sha256) == 64
    np.testing.assert_array_equal(data.val.batch(slice(2, 5))["image"], arrays["x_val"][2:5])
    np.testing.assert_array_equal(data.val.targets(slice(2, 5)), arrays["y_val"][2:5])


def test_bytes_are_scaled_per_channel(tmp_path: Path) -> None:
    stored = RNG.integers(0, 256, (5, 3, 8, 8)).astype(np.uint8)
    mean, std = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.2, 0.3, 0.4], np.float32)
    data = read(tmp_path, x_train=stored, x_val=stored, mean=mean, std=std)
    expected = (stored / 255 - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    pixels = data.train.batch(np.arange(5))["image"]
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_bytes_become_what_the_model_takes(dtype: type, tmp_path: Path) -> None:
    stored = RNG.integers(0, 256, (5, 3, 8, 8)).astype(np.uint8)
    file = write(tmp_path, x_train=stored, x_val=stored, mean=np.float32(0.5), std=np.float32(0.25))
    data = read_dataset(file, {"image": ((1, 3, 8, 8), np.dtype(dtype))}, OUTPUTS)
    pixels = data.train.batch(slice(None))["image"]
    assert pixels.dtype == dtype
    np.testing.assert_allclose(pixels, (stored / 255 - 0.5) / 0.25, rtol=0, atol=2e-3)


def test_bytes_are_scaled_along_the_last_axis_of_nhwc(tmp_path: Path) -> None:
    stored = RNG.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    mean, std = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.2, 0.3, 0.4], np.float32)
    file = write(tmp_path, x_train=stored, x_val=stored, mean=mean, std=std)
    data = read_dataset(file, {"image": ((1, 8, 8, 3), np.dtype(np.float32))}, OUTPUTS)
    np.testing.assert_allclose(data.val.batch(slice(None))["image"], (stored / 255 - mean) / std, rtol=0, atol=1e-5)


def test_several_inputs_are_named(tmp_path: Path) -> None:
    specs = SPECS | {"mask": ((1, 4), np.dtype(np.int64))}
    mask = RNG.integers(0, 2, (6, 4))
    file = write(tmp_path, **{"x_train.image": images(6), "x_train.mask": mask, "y_train": labels(6)})
    data = read_dataset(file, specs, OUTPUTS)
    batch = data.train.batch(np.array([1, 0]))
    assert {name: value.shape for name, value in batch.items()} == {"image": (2, 3, 8, 8), "mask": (2, 4)}


def test_validation_comes_out_of_the_training_data_evenly_per_class(tmp_path: Path) -> None:
    y = np.repeat(np.arange(4), (100, 200, 300, 400))
    data = read(tmp_path, x_train=images(1000), y_train=y)
    assert data.val_from_train
    assert data.final_split[0] == "val"
    assert data.train.rows is not None
    assert data.val.rows is not None
    assert np.array_equal(np.sort(np.concatenate([data.train.rows, data.val.rows])), np.arange(1000))
    targets = data.val.targets()
    assert targets is not None
    assert np.abs(np.bincount(targets) - [10, 20, 30, 40]).max() <= 1
    again = read(tmp_path, x_train=images(1000), y_train=y).val.rows
    assert again is not None
    np.testing.assert_array_equal(again, data.val.rows)


def test_a_subset_of_a_subset_keeps_the_order_and_shares_the_storage() -> None:
    split = Split({"x": np.arange(100.0)}, np.arange(100))
    part = split.subset(np.arange(50, 100)).subset(slice(10, 20))
    assert part.inputs["x"] is split.inputs["x"]
    np.testing.assert_array_equal(part.batch(slice(None))["x"], np.arange(60.0, 70.0))
    np.testing.assert_array_equal(part.targets(np.array([3, 1])), [63, 61])
    assert len(part.sample(4)) == 4
    assert [len(inputs["x"]) for inputs, _ in part.batches(4)] == [4, 4, 2]


def test_two_samples_are_the_least_that_can_be_split() -> None:
    train, val = split_validation(Split({"x": np.zeros((2, 1))}))
    assert (len(train), len(val)) == (1, 1)
    with pytest.raises(NetadaptError, match="1 samples, too few"):
        split_validation(Split({"x": np.zeros((1, 1))}))


GOOD: dict[str, Any] = {"x_train": images(20), "y_train": labels(20), "x_val": images(8), "y_val": labels(8)}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "other shape": ({"x_val": images(8, 3, 9, 8)}, r"x_val has shape 8x3x9x8, but .*'image' takes Nx3x8x8"),
    "channels last": ({"x_train": images(20, 8, 8, 3)}, r"x_train has shape 20x8x8x3, but .* takes Nx3x8x8"),
    "no batch axis": ({"x_train": images(3, 8, 8)}, r"x_train has shape 3x8x8, but"),
    "doubles": ({"x_train": images(20).astype(np.float64)}, "x_train has type float64, but .* takes float32"),
    "bytes without mean": ({"x_train": np.zeros((20, 3, 8, 8), np.uint8)}, "type uint8, .* takes floats; add mean"),
    "empty": ({"x_val": images(0), "y_val": labels(0)}, "x_val holds no samples"),
    "too few labels": ({"y_train": labels(19)}, r"y_train has shape 19, but x_train holds 20 samples"),
    "one-hot labels": (
        {"y_train": np.eye(10)[labels(20)]},
        r"y_train of shape 20x10 looks like one-hot classes; save one class",
    ),
    "float labels": (
        {"y_train": labels(20).astype(np.float32)},
        r"y_train of shape 20 and type float32 fits none .*'logits' Nx10; .* classification \(one class",
    ),
    "label too high": (
        {"y_train": np.full(20, 10)},
        r"y_train holds label 10 \(sample 0\), but .*'logits' has 10 classes, 0 to 9",
    ),
    "label too low": ({"y_val": np.full(8, -1)}, r"y_val holds label -1 \(sample 0\)"),
    "labels in part": ({"y_val": None}, "labels for some splits only; add y_val"),
    "labels alone": ({"x_val": None}, "y_val without x_val"),
    "misspelt labels": ({"y_train": None, "y_trian": labels(20)}, r"unknown array 'y_trian'; did you mean y_train"),
    "misspelt samples": ({"x_val": None, "y_val": None, "x_valid": images(8)}, r"unknown array 'x_valid'; .* x_val"),
    "another input's samples": ({"x_train.imgae": images(20)}, r"unknown array 'x_train.imgae'; .* x_train.image"),
    "a file for something else": (
        {"x_train": None, "y_train": None, "x_val": None, "y_val": None, "images": images(8)},
        r"unknown array 'images'; name the samples x_train and x_val",
    ),
    "something else": ({"weights": np.ones(3)}, r"unknown array 'weights'; leave it out: known are x_train, y_train"),
    "no training data": ({"x_train": None, "y_train": None}, "no x_train; it holds x_val, y_val"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_data_that_do_not_fit_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {name: value for name, value in (GOOD | change).items() if value is not None}
    with pytest.raises(NetadaptError, match=message):
        read(tmp_path, **arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(value: float, tmp_path: Path) -> None:
    x = images(20)
    x[13, 1, 2, 3] = value
    with pytest.raises(NetadaptError, match=r"x_train holds NaN or infinity \(sample 13\)"):
        read(tmp_path, **(GOOD | {"x_train": x}))


@pytest.mark.parametrize("std", [[0.2, 0.0, 0.2], [0.2, np.nan, 0.2]])
def test_a_scaling_that_cannot_be_is_refused(std: list[float], tmp_path: Path) -> None:
    stored = np.zeros((4, 3, 8, 8), np.uint8)
    with pytest.raises(NetadaptError, match="must be finite, and std positive"):
        read(tmp_path, x_train=stored, x_val=stored, mean=np.zeros(3, np.float32), std=np.array(std, np.float32))
    with pytest.raises(NetadaptError, match=r"mean has 2 values, but .* takes Nx3x8x8"):
        read(tmp_path, x_train=stored, x_val=stored, mean=np.zeros(2, np.float32), std=np.ones(3, np.float32))


def test_labels_need_an_output_that_they_fit(tmp_path: Path) -> None:
    expected = (
        r"fits none of the model's outputs 'mask' Nx2x8x8; what fits: regression .*, segmentation .*, distillation"
    )
    with pytest.raises(NetadaptError, match=expected):
        read_dataset(write(tmp_path, **GOOD), SPECS, {"mask": (1, 2, 8, 8)})
    unlabelled = {name: value for name, value in GOOD.items() if name.startswith("x")}
    assert read_dataset(write(tmp_path, **unlabelled), SPECS, {"mask": (1, 2, 8, 8)}).train.labels is None


def test_evaluation_needs_no_training_data(tmp_path: Path) -> None:
    file = write(tmp_path, x_test=images(4), y_test=labels(4))
    data = read_dataset(file, SPECS, OUTPUTS, train=False)
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (0, 0, 4)


def test_files_that_are_no_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetadaptError, match="no such file"):
        read_dataset(tmp_path / "absent.npz", SPECS, OUTPUTS)
    (tmp_path / "picture.png").touch()
    with pytest.raises(NetadaptError, match=r"holds pictures of bytes, .* give --mean and --std"):
        read_dataset(tmp_path, SPECS, OUTPUTS)
    (tmp_path / "data.txt").touch()
    with pytest.raises(NetadaptError, match=r"not an \.npz file, a folder or FILE\.py:FUNCTION"):
        read_dataset(tmp_path / "data.txt", SPECS, OUTPUTS)
    noise = tmp_path / "noise.npz"
    noise.write_bytes(b"PK\x03\x04 this is no archive")
    with pytest.raises(NetadaptError, match="cannot be read"):
        read_dataset(noise, SPECS, OUTPUTS)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(write(tmp_path, **GOOD).read_bytes()[:5000])
    with pytest.raises(NetadaptError, match="cannot be read"):
        read_dataset(cut, SPECS, OUTPUTS)
    np.savez(tmp_path / "objects.npz", x_train=np.array([{"a": 1}], dtype=object))
    with pytest.raises(NetadaptError, match="cannot be read"):
        read_dataset(tmp_path / "objects.npz", SPECS, OUTPUTS)


def test_training_samples_may_lack_labels_that_others_have(tmp_path: Path) -> None:
    """A team without its training set has inputs of its own to train on, and a few labelled samples to judge by."""
    unlabelled = {name: value for name, value in GOOD.items() if name != "y_train"}
    data = read(tmp_path, **unlabelled)
    assert (data.train.metric, data.val.metric, data.about["metric"]) == ("agreement", "top1", "top1")
    only_test = {"x_train": images(20), "x_test": images(6), "y_test": labels(6)}
    data = read(tmp_path, **only_test)
    assert data.test is not None
    assert (data.train.metric, data.val.metric, data.test.metric) == ("agreement", "agreement", "top1")
    assert data.val_from_train
    with pytest.raises(NetadaptError, match="labels for some splits only; add y_test"):
        read(tmp_path, **unlabelled, x_test=images(6))
