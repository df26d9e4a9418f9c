"""Folders as data: pictures by class, the official CIFAR and MNIST files, and how pictures are prepared."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.data.load_dataset import read_dataset
from netadapt_onnx.data.source import DataSource
from netadapt_onnx.errors import NetadaptError

RNG = np.random.default_rng(0)
HALF = {"mean": (0.5,), "std": (0.25,)}


def read(folder: Path, shape: tuple[int, ...], classes: int, dtype: Any = np.float32, **options: Any) -> Dataset:
    metadata = options.pop("metadata", None)
    source = DataSource(str(folder), **(HALF | options if metadata is None else options))
    return read_dataset(source, {"image": (shape, np.dtype(dtype))}, {"logits": (1, classes)}, metadata=metadata)


def pictures(folder: Path, names: dict[str, int], size: tuple[int, int] = (8, 8), *, form: str = "png") -> None:
    """So many pictures a class, all pixels of class number c 10 * c + the picture's number."""
    for number, (name, count) in enumerate(names.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size[::-1], (10 * number + i,) * 3).save(folder / name / f"{i:03d}.{form}")


def test_a_folder_a_class(tmp_path: Path) -> None:
    pictures(tmp_path, {"cat": 10, "ant": 20, "dog": 10})
    data = read(tmp_path, (1, 3, 8, 8), 3)
    assert (len(data.train), len(data.val), data.test, data.val_from_train) == (36, 4, None, True)
    assert np.bincount(np.concatenate([data.train.targets(), data.val.targets()])).tolist() == [20, 10, 10]
    assert np.bincount(data.val.targets()).tolist() == [2, 1, 1]  # type: ignore[arg-type]
    # `ant`, class 0, was written with the bytes 10, 11, ...
    first = data.train.subset(np.flatnonzero(data.train.targets() == 0)[:1])
    number = first.rows[0]  # type: ignore[index]
    np.testing.assert_allclose(first.batch(slice(None))["image"], ((10 + number) / 255 - 0.5) / 0.25, rtol=0, atol=1e-5)


def test_a_note_says_how_folders_named_by_words_are_numbered(tmp_path: Path) -> None:
    pictures(tmp_path / "words", {"zero": 2, "one": 2})
    (note,) = read(tmp_path / "words", (1, 3, 8, 8), 2).notes
    assert note == "Class folders are numbered in the order of their names: 0 one, 1 zero"
    pictures(tmp_path / "many", {f"class{number}": 1 for number in range(9)})
    (note,) = read(tmp_path / "many", (1, 3, 8, 8), 9).notes
    assert note.endswith("0 class0, 1 class1, 2 class2, 3 class3, ..., 8 class8")
    pictures(tmp_path / "digits", {"0": 2, "1": 2})
    assert read(tmp_path / "digits", (1, 3, 8, 8), 2).notes == ()


def test_splits_are_folders_and_class_names_may_be_numbers(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("valid", 2), ("test", 3)):
        pictures(tmp_path / split, {"7": count, "2": count})
    data = read(tmp_path, (1, 8, 8, 3), 10)
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (8, 4, 6)
    assert data.test.targets().tolist() == [2, 2, 2, 7, 7, 7]  # type: ignore[union-attr]
    assert data.val.batch(slice(0, 2))["image"].shape == (2, 8, 8, 3)


def test_pictures_without_classes_have_no_labels(tmp_path: Path) -> None:
    for i in range(12):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    data = read(tmp_path, (1, 1, 8, 8), 10)
    assert data.train.labels is None
    assert (len(data.train), len(data.val)) == (11, 1)
    with pytest.raises(NetadaptError, match=r"--task classification needs labels, and .* has none; add y_train"):
        read(tmp_path, (1, 1, 8, 8), 10, task="classification")


def test_training_pictures_without_classes_stand_beside_classes(tmp_path: Path) -> None:
    pictures(tmp_path / "train", {".": 5})
    pictures(tmp_path / "val", {"cat": 2, "dog": 3})
    data = read(tmp_path, (1, 3, 8, 8), 2)
    assert (len(data.train), data.train.labels) == (5, None)
    np.testing.assert_array_equal(data.val.targets(), [0, 0, 1, 1, 1])


def test_resize_and_crop_are_those_of_pillow(tmp_path: Path) -> None:
    picture = Image.fromarray(RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8))
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "a.png")
    data = read(tmp_path, (1, 3, 8, 8), 10, dtype=np.uint8, resize=(10,), crop=(8,), mean=None, std=None)
    expected = picture.resize((15, 10), Image.Resampling.BILINEAR).crop((4, 1, 12, 9))
    np.testing.assert_array_equal(data.train.batch(slice(None))["image"][0], np.moveaxis(np.asarray(expected), -1, 0))
    exact = read(tmp_path, (1, 3, 8, 8), 10, dtype=np.uint8, resize=(8, 8), mean=None, std=None)
    expected = picture.resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(exact.train.batch(slice(None))["image"][0], np.moveaxis(np.asarray(expected), -1, 0))
    assert exact.sha256 != data.sha256


def test_the_model_may_say_how_its_pictures_are_prepared(tmp_path: Path) -> None:
    pictures(tmp_path, {"0": 2, "1": 2}, (20, 20))
    metadata = {
        f"netadapt_onnx.{k}": v for k, v in {"resize": "10", "crop": "8x8", "mean": "0.5", "std": "0.25"}.items()
    }
    data = read(tmp_path, (1, 3, 8, 8), 2, metadata=metadata)
    expected = read(tmp_path, (1, 3, 8, 8), 2, resize=(10,), crop=(8, 8))
    np.testing.assert_array_equal(data.train.batch(slice(None))["image"], expected.train.batch(slice(None))["image"])
    with pytest.raises(NetadaptError, match=r"metadata 'netadapt_onnx.mean' is 'half'"):
        read(tmp_path, (1, 3, 8, 8), 2, metadata=metadata | {"netadapt_onnx.mean": "half"})


def test_the_standards_image_metadata_are_followed(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), (255, 51, 0)).save(tmp_path / "0" / f"{name}.png")
    metadata = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "Normalized_1_1"}
    result = read(tmp_path, (1, 3, 8, 8), 10, metadata=metadata).train.batch(slice(0, 1))["image"]
    np.testing.assert_allclose(result[0, :, 0, 0], [-1, -0.6, 1], atol=1e-6)


def cifar(folder: Path, classes: int, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Official files of random pictures; returns those of the last one."""
    names = (
        [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
        if classes == 10
        else ["train.bin", "test.bin"]
    )
    for name in names:
        labels = RNG.integers(0, classes, count).astype(np.uint8)
        values = RNG.integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)
        leading = labels[:, None] if classes == 10 else np.stack([labels // 5, labels], 1)
        (folder / name).write_bytes(np.concatenate([leading, values.reshape(count, -1)], 1).tobytes())
    return values, labels


def test_the_official_cifar10_files(tmp_path: Path) -> None:
    values, labels = cifar(tmp_path, 10)
    data = read(tmp_path, (1, 3, 32, 32), 10)
    assert data.test is not None
    assert (len(data.train) + len(data.val), len(data.test), data.final_split[0]) == (20, 4, "test")
    np.testing.assert_array_equal(data.test.targets(), labels)
    np.testing.assert_allclose(data.test.batch(slice(None))["image"], (values / 255 - 0.5) / 0.25, rtol=0, atol=1e-5)


@pytest.mark.parametrize("classes", [100, 20])
def test_cifar100_has_fine_and_coarse_labels(classes: int, tmp_path: Path) -> None:
    _, labels = cifar(tmp_path, 100)
    data = read(tmp_path, (1, 3, 32, 32), classes)
    assert data.test is not None
    np.testing.assert_array_equal(data.test.targets(), labels if classes == 100 else labels // 5)


def idx(file: Path, values: np.ndarray) -> None:
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_official_mnist_files(suffix: str, tmp_path: Path) -> None:
    for split, count in (("train", 20), ("t10k", 6)):
        values, labels = (
            RNG.integers(0, 256, (count, 28, 28)).astype(np.uint8),
            RNG.integers(0, 10, count).astype(np.uint8),
        )
        idx(tmp_path / f"{split}-images-idx3-ubyte{suffix}", values)
        idx(tmp_path / f"{split}-labels-idx1-ubyte{suffix}", labels)
    data = read(tmp_path, (1, 1, 28, 28), 10)
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 6)
    np.testing.assert_array_equal(data.test.targets(), labels)
    result = data.test.batch(slice(None))["image"]
    np.testing.assert_allclose(result[:, 0], (values / 255 - 0.5) / 0.25, rtol=0, atol=1e-5)
    larger = read(tmp_path, (1, 3, 32, 32), 10, resize=(32,)).test
    assert larger is not None
    assert larger.batch(slice(0, 2))["image"].shape == (2, 3, 32, 32)


def test_folders_that_do_not_fit_say_why(tmp_path: Path) -> None:
    pictures(tmp_path / "a", {"cat": 2, "dog": 2}, (9, 8))
    with pytest.raises(NetadaptError, match=r"000.png is 9x8 .* takes 8x8; give --resize and --crop"):
        read(tmp_path / "a", (1, 3, 8, 8), 2)
    with pytest.raises(NetadaptError, match=r"is 9x8 .* too small for --crop 16"):
        read(tmp_path / "a", (1, 3, 8, 8), 2, crop=(16,))
    with pytest.raises(NetadaptError, match="2 class folders, but the model has 10 classes"):
        read(tmp_path / "a", (1, 3, 9, 8), 10)
    with pytest.raises(NetadaptError, match="give --mean and --std per channel"):
        read(tmp_path / "a", (1, 3, 9, 8), 2, mean=None)
    with pytest.raises(NetadaptError, match="--task segmentation does not fit the model's outputs 'logits' Nx2"):
        read(tmp_path / "a", (1, 3, 9, 8), 2, task="segmentation")
    with pytest.raises(NetadaptError, match="pictures need one input"):
        read(tmp_path / "a", (1, 16), 2)
    (tmp_path / "a" / "cat" / "000.png").write_bytes(b"no picture")
    with pytest.raises(NetadaptError, match=r"000.png is not a picture"):
        read(tmp_path / "a", (1, 3, 9, 8), 2)
    pictures(tmp_path / "b" / "train", {"cat": 2})
    pictures(tmp_path / "b" / "val", {"cow": 2})
    with pytest.raises(NetadaptError, match="class 'cow' has no folder in train"):
        read(tmp_path / "b", (1, 3, 8, 8), 2)
    (tmp_path / "c").mkdir()
    with pytest.raises(NetadaptError, match=r"no pictures .*; give a folder with a subfolder of pictures"):
        read(tmp_path / "c", (1, 3, 8, 8), 2, mean=None)
    (tmp_path / "c" / "data.npz").touch()
    with pytest.raises(NetadaptError, match=r"no pictures .*; did you mean .*data\.npz\?"):
        read(tmp_path / "c", (1, 3, 8, 8), 2, mean=None)
    cifar(tmp_path / "c", 10)
    (tmp_path / "c" / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(NetadaptError, match=r"test_batch.bin holds 5 bytes, .* 3073"):
        read(tmp_path / "c", (1, 3, 32, 32), 10)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\x05")
    with pytest.raises(NetadaptError, match="train-images-idx3-ubyte cannot be read"):
        read(tmp_path / "d", (1, 1, 28, 28), 10)
