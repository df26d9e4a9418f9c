"""The official CIFAR-10 and CIFAR-100 files, binary version (Krizhevsky, 2009)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from netadapt_onnx.errors import invalid_data

TRAIN_10 = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_10, TRAIN_100, TEST_100 = "test_batch.bin", "train.bin", "test.bin"
SIDE = 32
# CIFAR-100 has two labels a picture: one of 20 coarse classes, then one of 100 fine ones.
COARSE = 20


def cifar_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The files of each split that a folder has; empty if it holds neither data set."""
    splits = {"train": tuple(folder / n for n in TRAIN_10 if (folder / n).is_file())}
    splits |= {"test": tuple(folder / n for n in (TEST_10,) if (folder / n).is_file())}
    if not any(splits.values()):
        splits = {split: tuple(folder / n for n in (name,) if (folder / n).is_file())
                  for split, name in (("train", TRAIN_100), ("test", TEST_100))}  # fmt: skip
    return {split: files for split, files in splits.items() if files}


def read_cifar(files: tuple[Path, ...], classes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Read pictures and class numbers.

    Args:
        files: Of one split.
        classes: How many the model has; with 20, CIFAR-100 gives its coarse class numbers.

    Returns:
        Bytes, (N, 32, 32, 3), and class numbers, (N,).

    Raises:
        NetadaptError: A file does not consist of complete records.
    """
    pictures, labels = [], []
    for file in files:
        leading = 1 if file.name in (*TRAIN_10, TEST_10) else 2
        record = leading + 3 * SIDE * SIDE
        stored = np.fromfile(file, np.uint8)
        if not len(stored) or len(stored) % record:
            raise invalid_data(
                f"{file} holds {len(stored)} bytes, which is no multiple of a record's {record}",
                "get the binary version again",
            )
        rows = stored.reshape(-1, record)
        labels.append(rows[:, 0 if leading == 1 or classes == COARSE else 1])
        pictures.append(rows[:, leading:].reshape(-1, 3, SIDE, SIDE))
    return np.moveaxis(np.concatenate(pictures), 1, -1), np.concatenate(labels)
