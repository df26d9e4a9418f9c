"""The official CIFAR-10 and CIFAR-100 files, binary version (Krizhevsky, 2009)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from netadapt_onnx.errors import invalid_data

CIFAR_10 = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
CIFAR_100 = {"train": ["train.bin"], "test": ["test.bin"]}
SIDE = 32
# CIFAR-100 has two labels a picture: one of 20 coarse classes, then one of 100 fine ones.
COARSE = 20


def cifar_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The files of each split that a folder has; empty if it holds neither data set."""
    for names_by_split in (CIFAR_10, CIFAR_100):
        splits = {split: [folder / name for name in names] for split, names in names_by_split.items()}
        files = {split: tuple(path for path in paths if path.is_file()) for split, paths in splits.items()}
        if any(files.values()):
            return {split: paths for split, paths in files.items() if paths}
    return {}


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
        leading = 1 if file.name in (*CIFAR_10["train"], *CIFAR_10["test"]) else 2
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
