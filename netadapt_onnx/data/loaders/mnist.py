"""The idx files of MNIST, Fashion-MNIST and their kind, gzipped or not (LeCun's format)."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from netadapt_onnx.errors import invalid_data

# How the official files begin, by split; the rest of the name differs in dots and dashes.
_PREFIXES = {"train": "train", "test": "t10k"}
_BYTES = 0x08


def mnist_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The files of each split that a folder has, pictures before labels if these are there; empty if it holds none."""
    splits = {}
    for split, prefix in _PREFIXES.items():
        pictures, labels = (sorted(folder.glob(f"{prefix}-{what}-ubyte*")) for what in ("images*idx3", "labels*idx1"))
        if pictures:
            splits[split] = (pictures[0], *labels[:1])
    return splits


def read_mnist(files: tuple[Path, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Read pictures and class numbers of one split; None where there is no file of labels."""
    pictures, *labels = map(_read_idx, files)
    return pictures, labels[0] if labels else None


def _read_idx(file: Path) -> np.ndarray:
    """The array of bytes in a file. Raises NetadaptError if it is none, or ends early."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        zeros, kind, rank = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        if zeros or kind != _BYTES:
            raise ValueError("not an idx file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise invalid_data(f"{file} cannot be read: {error}") from error
