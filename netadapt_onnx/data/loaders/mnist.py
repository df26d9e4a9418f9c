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


def idx_files(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """Pictures and labels of each split that a folder has; empty if it holds none."""
    splits: dict[str, tuple[Path, Path | None]] = {}
    for split, prefix in _PREFIXES.items():
        pictures, labels = (
            next((p for p in sorted(folder.glob(f"{prefix}-{what}*idx{rank}-ubyte*"))), None)
            for what, rank in (("images", 3), ("labels", 1))
        )
        if pictures is not None:
            splits[split] = pictures, labels
    return splits


def read_idx(file: Path) -> np.ndarray:
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
