"""Arrays from .npz files: mapped where they are stored as they are, read where they are compressed."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from netadapt_onnx.data.load_dataset import read_dataset
from netadapt_onnx.data.loaders.npz import LEAST_MAPPED_BYTES, read_npz
from netadapt_onnx.data.source import DataSource
from netadapt_onnx.errors import NetadaptError

RNG = np.random.default_rng(0)
LARGE = RNG.standard_normal((1000, 3, 32, 32)).astype(np.float32)
SPECS = {"image": ((1, 3, 32, 32), np.dtype(np.float32))}


def test_what_is_stored_as_it_is_is_mapped(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    arrays = {
        "x_train": LARGE,
        "fortran": np.asfortranarray(LARGE[:, 0]),
        "y_train": np.arange(1000),
        "é" * 9: LARGE[:200],
    }
    np.savez(file, **arrays)
    read = read_npz(file)
    assert {n: isinstance(v, np.memmap) for n, v in read.items()} == {
        n: v.nbytes >= LEAST_MAPPED_BYTES for n, v in arrays.items()
    }
    for name, values in arrays.items():
        np.testing.assert_array_equal(read[name], values)
    np.savez_compressed(file, **arrays)
    packed = read_npz(file)
    assert not any(isinstance(values, np.memmap) for values in packed.values())
    np.testing.assert_array_equal(packed["x_train"], LARGE)


def test_mapped_data_take_next_to_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, x_train=np.concatenate([LARGE] * 8), y_train=np.zeros(8000, np.int64))
    tracemalloc.start()
    try:
        data = read_dataset(file, SPECS, {"logits": (1, 10)})
        batch = data.train.batch(np.arange(64))["image"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 90e6
    assert peak < 30e6
    assert batch.flags.writeable
    assert type(batch) is np.ndarray
    assert type(data.val.batch(slice(0, 4))["image"]) is np.ndarray


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, x_train=LARGE)
    content = file.read_bytes()
    # The archive's directory is whole, but what it points to is not.
    file.write_bytes(b"??" + content[2:])
    with pytest.raises(NetadaptError, match="cannot be read"):
        read_npz(file)
    np.save(tmp_path / "array.npy", LARGE)
    (tmp_path / "array.npy").rename(file)
    with pytest.raises(NetadaptError, match="cannot be read"):
        read_npz(file)


@pytest.mark.parametrize("header", ["{'descr': '<f4', ", "{'descr': (((", "\0", "[[1]]", "{'shape': (10**40,)}", "\\"])
def test_arrays_without_a_readable_header_are_refused(header: str, tmp_path: Path) -> None:
    """Numpy's parser raises whatever Python's tokenizer does."""
    file = tmp_path / "d.npz"
    for size in (len(header) + 1, 1 << 21):  # small arrays are read, large ones mapped
        with zipfile.ZipFile(file, "w") as archive:
            data = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n"
            archive.writestr("x_train.npy", data.ljust(size, b"\0"))
        with pytest.raises(NetadaptError, match="cannot be read"):
            read_npz(file)


def test_labels_are_named_by_output(tmp_path: Path) -> None:
    outputs = {"first": (1, 4), "second": (1, 4), "value": (1,)}
    y = {"y_train.first": np.arange(1000) % 4, "y_train.value": np.arange(1000) / 7}
    np.savez(tmp_path / "data.npz", x_train=LARGE, **y)
    data = read_dataset(tmp_path / "data.npz", SPECS, outputs)
    assert data.train.metric == "top1+r2"
    targets = data.train.targets(slice(0, 5))
    assert isinstance(targets, dict)
    assert {name: values.dtype.name for name, values in targets.items()} == {"first": "int64", "value": "float32"}
    np.savez(tmp_path / "data.npz", x_train=LARGE, y_train=np.arange(1000) % 4)
    with pytest.raises(NetadaptError, match=r"fits several outputs: first, second; name the one .* y_train.first"):
        read_dataset(tmp_path / "data.npz", SPECS, outputs)


def test_the_task_is_asked_for_where_labels_leave_a_choice(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"

    def metric(labels: np.ndarray, output: tuple[int, ...], task: str | None = None) -> str:
        np.savez(file, x_train=LARGE[:20], y_train=labels)
        source = DataSource(str(file), task=task)  # type: ignore[arg-type]
        return read_dataset(source, SPECS, {"out": output}).train.metric

    assert metric(np.arange(20) % 4, (1, 4)) == "top1"
    assert metric(np.arange(20), (1, 1)) == "r2"
    assert metric(np.zeros((20, 8, 8), np.uint8), (1, 2, 8, 8)) == "miou"
    assert metric(np.zeros((20, 1, 8, 8), np.uint8), (1, 8, 8, 2)) == "miou"
    assert metric(np.zeros((20, 2, 8, 8), np.float32), (1, 2, 8, 8)) == "r2"
    assert metric(np.eye(4)[np.arange(20) % 4], (1, 4), "regression") == "r2"
    assert metric(np.eye(4, dtype=int)[np.arange(20) % 4], (1, 4), "regression") == "r2"
    with pytest.raises(NetadaptError, match="looks like one-hot"):
        metric(np.eye(4)[np.arange(20) % 4], (1, 4))
    with pytest.raises(
        NetadaptError, match=r"--task classification does not fit .* 'out' Nx2x8x8; what fits: regression"
    ):
        metric(np.zeros((20, 2, 8, 8), np.float32), (1, 2, 8, 8), "classification")
    with pytest.raises(NetadaptError, match=r"y_train holds label 2 \(sample 3\), but .* has 2 classes, 0 to 1"):
        metric(np.where(np.arange(20)[:, None, None] == 3, 2, 255) * np.ones((1, 8, 8), int), (1, 2, 8, 8))
    with pytest.raises(NetadaptError, match=r"y_train holds NaN or infinity \(sample 7\)"):
        metric(np.where(np.arange(20) == 7, np.nan, 1), (1, 1))


def test_splits_are_labelled_for_one_task(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "data.npz",
        x_train=LARGE[:20],
        y_train=np.arange(20) % 4,
        x_val=LARGE[:20],
        y_val=np.zeros((20, 4, 4), int),
    )
    with pytest.raises(NetadaptError, match="labels of the splits are for different tasks: train top1, val miou"):
        read_dataset(tmp_path / "data.npz", SPECS, {"a": (1, 4), "b": (1, 2, 4, 4)})
