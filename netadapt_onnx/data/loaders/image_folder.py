"""A folder of pictures, a folder a class; the classes may lie in `train`, `val` and `test`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from netadapt_onnx.data.dataset import LazyArray
from netadapt_onnx.data.preprocess import LazyPictures, Preprocessing
from netadapt_onnx.errors import invalid_data, require_package

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}

# A note names so many classes.
LISTED = 5

# Pictures, (N, ...), and class numbers, (N,), by split; None: the split has no labels.
StoredPictures = dict[str, tuple[LazyArray, np.ndarray | None]]


def _open(paths: Sequence[Path], row: int) -> tuple[Image, str]:
    """The picture in one of several files, and its name in messages."""
    from PIL import Image

    path = paths[row]
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture, str(path)
    except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError and its own, by format
        raise invalid_data(f"{path} is not a picture: {type(error).__name__}") from error


def folder_splits(root: Path, prepare: Preprocessing, classes: int | None) -> tuple[StoredPictures, str]:
    """Pictures and class numbers by split, and a note on how classes are numbered where names alone say it.

    Classes are numbered in the order of their names, or by names of digits. Pictures without folders of classes have
    no labels, in one split or in all.

    Args:
        root: The folder.
        prepare: Makes a picture a sample.
        classes: How many the model has; None: any number.

    Raises:
        NetadaptError: There are no pictures, class folders differ between splits, or there are other than `classes`.
    """
    require_package("PIL.Image", "a folder of pictures needs Pillow")
    parts = {split: root / name for split, names in _SPLITS.items() for name in names if (root / name).is_dir()}
    parts = parts or {"train": root}
    named = {split: _classes_in(folder) for split, folder in parts.items()}
    numbers = _numbers(root, named, classes) if any(named.values()) else {}
    splits: StoredPictures = {}
    for split, folder in parts.items():
        listed = [(path, numbers[name]) for name in named[split] for path in _pictures(folder / name)]
        listed = listed or [(path, -1) for path in _pictures(folder)]
        if not listed:
            raise invalid_data(f"--data {folder}: no pictures ({', '.join(sorted(SUFFIXES))})")
        pictures = LazyPictures(len(listed), partial(_open, [path for path, _ in listed]), prepare)
        pictures[:1]  # a wrong size should be refused now and not in the middle of the work
        splits[split] = pictures, np.array([number for _, number in listed]) if named[split] else None
    return splits, _order_of(numbers)


def require_pictures(root: Path) -> None:
    """Raise NetadaptError for a folder without a picture, which may have been meant for a file in it."""
    if any(path.suffix.lower() in SUFFIXES for path in root.rglob("*")):
        return
    arrays = sorted(root.glob("*.npz"))
    hint = f"did you mean {arrays[0]}?" if arrays else "give a folder with a subfolder of pictures for each class"
    raise invalid_data(f"--data {root}: no pictures ({', '.join(sorted(SUFFIXES))})", hint)


def folder_hash(root: Path) -> str:
    """Identify a folder of pictures by the names and sizes of its files: reading them all would take minutes."""
    digest = hashlib.sha256()
    for path in _pictures(root):
        line = f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _classes_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _pictures(path))


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _order_of(numbers: Mapping[str, int]) -> str:
    """How classes are numbered, in a sentence; "" where the names of their folders are the numbers."""
    words = [f"{number} {name}" for name, number in numbers.items() if not name.isdecimal()]
    if not words:
        return ""
    listed = words if len(words) <= LISTED else [*words[: LISTED - 1], "...", words[-1]]
    return f"Class folders are numbered in the order of their names: {', '.join(listed)}"


def _numbers(root: Path, named: Mapping[str, Sequence[str]], classes: int | None) -> dict[str, int]:
    """The class number of each folder name."""
    names = sorted({name for classes_of_split in named.values() for name in classes_of_split})
    if all(name.isdecimal() for name in names):
        return {name: int(name) for name in names}
    if named.get("train"):
        strange = sorted(set(names) - set(named["train"]))
        if strange:
            raise invalid_data(f"--data {root}: class '{strange[0]}' has no folder in train")
    if classes is not None and len(names) != classes:
        raise invalid_data(
            f"--data {root}: {len(names)} class folders, but the model has {classes} classes",
            "add the missing ones, or name folders by their class numbers",
        )
    return {name: number for number, name in enumerate(names)}
