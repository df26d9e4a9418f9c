"""Arrays from an `.npz` file, mapped into memory where the file stores them as they are, so that they may exceed it."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from netadapt_onnx.data.dataset import SPLITS, Labels, Scaling, Split
from netadapt_onnx.data.labels import check_labels, require_finite
from netadapt_onnx.data.preprocess import channel_scaling
from netadapt_onnx.data.shapes import Outputs, format_shape, layout_hint
from netadapt_onnx.data.source import DataSource
from netadapt_onnx.errors import NetadaptError, did_you_mean, invalid_data, one_line
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.graph.shapes import Specs

# Smaller arrays are read at once.
LEAST_MAPPED_BYTES = 1 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def npz_splits(
    source: DataSource, metadata: DataSource, specs: Specs, outputs: Outputs, *, train: bool
) -> dict[str, Split | None]:
    """The splits of a file of x_train, y_train, ..., mean and std, checked against a model.

    Args:
        source: The file, and how its samples are read.
        metadata: The source completed by the model's `metadata_props`.
        specs: Shape and type of the model's inputs by name.
        outputs: Shapes of its outputs by name, samples first.
        train: Whether training samples are needed.

    Raises:
        NetadaptError: The file and the model do not fit; the message names both sides.
    """
    file = Path(source.path)
    if source.resize or source.crop:
        raise invalid_data(
            f"--resize and --crop prepare pictures, and {file} holds arrays", "save them at the right size"
        )
    stored = read_npz(file)
    _refuse_unknown(stored, specs, outputs, file)
    if train and not _has(stored, "train"):
        names = ", ".join(stored) or "nothing"
        raise invalid_data(f"--data {file}: no x_train; it holds {names}", "name the arrays x_train, y_train, ...")
    for what in ("mean", "std"):
        option, declared = getattr(source, what), getattr(metadata, what)
        if option is not None:
            stored = {name: value for name, value in stored.items() if name.partition(".")[0] != what}
        if what not in stored and declared is not None:
            stored[what] = np.array(declared, np.float32)
    return {name: _split(stored, name, specs, outputs, source) for name in SPLITS}


def read_npz(file: Path) -> Arrays:
    """All arrays of a file by name. Uncompressed ones are mapped; compressed ones take memory (`numpy.savez` has none).

    Raises:
        NetadaptError: The file is not an .npz, is broken, or does not fit into memory.
    """
    try:
        with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            arrays = {}
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if entry.compress_type == zipfile.ZIP_STORED and entry.file_size >= LEAST_MAPPED_BYTES:
                    arrays[name] = _mapped(file, stream, entry.header_offset)
                else:
                    with archive.open(entry) as member:
                        arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
            return arrays
    except MemoryError as error:
        raise NetadaptError(
            f"--data {file}: compressed arrays are read into memory, and these do not fit",
            hint="save them with numpy.savez, which leaves them uncompressed: then they are mapped",
            code="too-large",
        ) from error
    except Exception as error:  # zipfile and numpy raise a dozen unrelated types, a tokenizer's among them
        raise invalid_data(f"--data {file} cannot be read: {one_line(error)}") from error


def _mapped(file: Path, stream: BinaryIO, header: int) -> np.ndarray:
    """The array of an archive member that is stored as it is. Raises ValueError for anything but plain numbers."""
    stream.seek(header)
    magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    if magic != b"PK\x03\x04":
        raise ValueError("the archive's directory points nowhere")
    stream.seek(name_bytes + extra_bytes, 1)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    return np.memmap(file, dtype, "r", stream.tell(), shape, "F" if fortran else "C")


# What to do with a file that was made for something else, in which no name was misspelt.
OTHER_NAMES = "name the samples x_train and x_val, and their labels y_train and y_val"


def _refuse_unknown(stored: Arrays, specs: Specs, outputs: Outputs, file: Path) -> None:
    """A misspelt `y_train` would change the task, and a misspelt `x_val` the validation samples, without a word."""
    names = [f"{axis}_{split}" for split in SPLITS for axis in "xy"] + ["mean", "std"]
    names += [f"{what}.{name}" for name in specs for what in (*(f"x_{split}" for split in SPLITS), "mean", "std")]
    names += [f"y_{split}.{name}" for name in outputs for split in SPLITS]
    for name in stored:
        if name not in names:
            is_other = not any(stored_name.startswith(("x_", "y_")) for stored_name in stored)
            hint = OTHER_NAMES if is_other else did_you_mean(name, names, "")
            everything = f"known are {', '.join(names)}"
            raise invalid_data(f"--data {file}: unknown array '{name}'", hint or f"leave it out: {everything}")


def _has(stored: Arrays, split: str, axis: str = "x") -> bool:
    return any(name == f"{axis}_{split}" or name.startswith(f"{axis}_{split}.") for name in stored)


def _split(stored: Arrays, split: str, specs: Specs, outputs: Outputs, source: DataSource) -> Split | None:
    """One split, checked; None if the file does not have it."""
    if not _has(stored, split):
        if _has(stored, split, "y"):
            raise invalid_data(f"--data {source}: y_{split} without x_{split}")
        return None
    inputs: dict[str, np.ndarray] = {}
    scaling: dict[str, Scaling] = {}
    for name, (shape, dtype) in specs.items():
        key = f"x_{split}.{name}"
        if key not in stored and len(specs) == 1:
            key = f"x_{split}"
        if key not in stored:
            raise invalid_data(f"--data {source}: no '{key}' for the model's input '{name}'")
        inputs[name] = stored[key]
        if factor := _check_input(key, stored, name, shape, dtype):
            scaling[name] = factor
    lengths = {len(values) for values in inputs.values()}
    if len(lengths) > 1:
        raise invalid_data(f"--data {source}: inputs of x_{split} differ in length: {sorted(lengths)}")
    return Split(inputs, _labels(stored, split, lengths.pop(), outputs, source), scaling)


def _labels(stored: Arrays, split: str, count: int, outputs: Outputs, source: DataSource) -> Labels | None:
    """`y_SPLIT`, or labels by output where the file names outputs."""
    key = f"y_{split}"
    named = {name: stored[f"{key}.{name}"] for name in outputs if f"{key}.{name}" in stored}
    if named and key in stored:
        raise invalid_data(f"--data {source}: both {key} and {key}.{next(iter(named))}", "give labels by output name")
    task = source.label_task
    if named:
        return {n: check_labels(f"{key}.{n}", v, count, {n: outputs[n]}, task)[1] for n, v in named.items()}
    if key not in stored or not outputs:
        return None
    name, labels = check_labels(key, stored[key], count, outputs, task)
    return labels if len(outputs) == 1 else {name: labels}


def _check_input(key: str, stored: Arrays, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Scaling | None:
    values = stored[key]
    if not shape or values.ndim != len(shape) or values.shape[1:] != shape[1:]:
        raise invalid_data(
            f"{key} has shape {format_shape(values.shape)}, but the model's input '{name}' takes "
            f"Nx{format_shape(shape[1:])}",
            layout_hint(key, values.shape, shape),
        )
    if not len(values):
        raise invalid_data(f"{key} holds no samples")
    if values.dtype == np.uint8 and np.issubdtype(dtype, np.floating):
        mean, std = (stored.get(f"{what}.{name}", stored.get(what)) for what in ("mean", "std"))
        if mean is None or std is None:
            raise invalid_data(
                f"{key} has type uint8, but the model's input '{name}' takes floats",
                "add mean and std per channel to the file, or give --mean and --std, for (x / 255 - mean) / std",
            )
        return channel_scaling(mean, std, name, shape, dtype)
    if values.dtype != dtype:
        hint = f"save it as .astype('{dtype}')"
        if np.issubdtype(dtype, np.floating):
            hint += ", or as uint8 with mean and std"
        raise invalid_data(f"{key} has type {values.dtype}, but the model's input '{name}' takes {dtype}", hint)
    if values.dtype.kind == "f":
        require_finite(key, values)
    return None
