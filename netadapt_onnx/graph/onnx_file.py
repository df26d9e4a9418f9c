"""An ONNX file and its external data: parsed, hashed and checked before anything is done with it.

Models are not trusted: nothing outside the model's folder is opened, and what a file declares must be there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph import validity
from netadapt_onnx.graph.external_data import (
    external_data,
    external_tensors,
    external_values,
    load_external,
    open_external,
)
from netadapt_onnx.graph.runtime import PROTOBUF_LIMIT
from netadapt_onnx.graph.shapes import dtype_of
from netadapt_onnx.graph.validity import bytes_needed, require_valid

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class OnnxFile:
    """A parsed file as it is; external weights of its graph are checked and hashed but not read into `proto`.

    Whatever else is external data is read: libraries would look for it themselves. `files` are it and its external
    data; `sha256` and `size_bytes` cover all of them.
    """

    path: Path
    proto: onnx.ModelProto
    sha256: str
    size_bytes: int
    files: tuple[Path, ...]


def read(path: str | os.PathLike[str], *, hashed: bool = True) -> OnnxFile:
    """Parse an ONNX file and check that it can be a model; without `hashed` its `sha256` stays empty.

    Raises NetadaptError: missing file, not ONNX, truncated, external data missing or not allowed, no valid model.
    """
    file = parse(path, hashed=hashed)
    with _named(file.path):
        require_valid(file.proto)
    return file


def parse(path: str | os.PathLike[str], *, hashed: bool = True) -> OnnxFile:
    """Parse an ONNX file and look whether its external data are there. Raises NetadaptError if not."""
    file = Path(path)
    data = _contents(file)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError lives in a private module
        if "MaxDepth" in str(error):
            why = "holds graphs within graphs, more than the 32 levels that protobuf reads"
            raise NetadaptError(f"{file} {why}", code="not-onnx") from error
        raise NetadaptError(f"{file} is not an ONNX file, or it is truncated", code="not-onnx") from error
    proto.DiscardUnknownFields()  # what this onnx cannot check, onnxruntime, which may know it, does not get
    if proto.ir_version == 0 or not proto.HasField("graph") or not proto.opset_import:
        raise NetadaptError(f"{file} is not an ONNX model: it holds no graph", code="not-onnx")
    if not proto.graph.output:  # which ONNX allows, but nothing runs
        raise NetadaptError(f"{file} has no outputs, so that there is nothing to run", code="not-onnx")
    digest = hashlib.sha256(data)
    size = len(data)
    del data
    external = _external_files(proto, file)
    buffer = memoryview(bytearray(1 << 20))
    for tensors in external.values():
        with open_external(tensors[0], file) as stream:
            size += os.fstat(stream.fileno()).st_size
            for tensor in tensors:
                _check_extent(tensor, os.fstat(stream.fileno()).st_size, file)
            while hashed and (held := stream.readinto(buffer)):  # type: ignore[attr-defined]
                digest.update(buffer[:held])
    load_external(external_values(proto), file)
    return OnnxFile(file, proto, digest.hexdigest() if hashed else "", size, (file, *external))


def external_array(tensor: TensorProto, file: Path) -> np.ndarray | None:
    """An external tensor's values, copied once and not three times; None for types that numpy does not have."""
    dtype = dtype_of(tensor.data_type)
    if dtype.kind not in "iuf" or bytes_needed(tensor) != prod(tensor.dims) * dtype.itemsize:
        return None
    with open_external(tensor, file) as stream:
        stream.seek(external_data(tensor, file).offset)
        values = np.fromfile(stream, dtype.newbyteorder("<"), prod(tensor.dims))
    if values.size != prod(tensor.dims):  # `read` has seen more of it
        raise NetadaptError(f"{file}: external data of '{tensor.name}' have been cut short", code="external-data")
    return values.reshape(tuple(tensor.dims)).astype(dtype, copy=False)


def check_tensor(tensor: TensorProto, file: Path) -> None:
    """Raise NetadaptError if a tensor holds other than the bytes that it declares."""
    with _named(file):
        validity.check_tensor(tensor)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Errors within say which file is wrong."""
    try:
        yield
    except NetadaptError as error:
        message = f"{file} is not a valid ONNX model: {error.message}"
        raise NetadaptError(message, hint=error.hint or "export it again", code=error.code) from error


def _contents(file: Path) -> bytes:
    if not file.is_file():
        raise missing_file(file)
    if file.stat().st_size > PROTOBUF_LIMIT:
        message = f"{file} holds {file.stat().st_size} bytes, more than an ONNX file can (2 GiB)"
        raise NetadaptError(message, hint="keep the weights as external data", code="not-onnx")
    data = file.read_bytes()
    if data.startswith(_LFS_POINTER):
        message = f"{file} is a Git LFS pointer and not the model"
        raise NetadaptError(message, hint="run `git lfs pull`", code="missing-file")
    return data


def _external_files(proto: onnx.ModelProto, file: Path) -> dict[Path, list[TensorProto]]:
    """The files that hold external tensors, with those that each holds. No file is opened before all are allowed."""
    files: dict[Path, list[TensorProto]] = {}
    for tensor in external_tensors(proto):
        with _named(file):
            validity.check_declared(tensor)
        files.setdefault(file.parent.joinpath(*external_data(tensor, file).parts), []).append(tensor)
    return files


def _check_extent(tensor: TensorProto, size: int, file: Path) -> None:
    """Raise NetadaptError unless the part of a file of `size` bytes that a tensor names is all of it, and there.

    A length that is left out is what the tensor's shape takes.
    """
    place, needed = external_data(tensor, file), bytes_needed(tensor)
    length = place.length
    if length is None:
        length = size - place.offset if tensor.data_type == TensorProto.STRING else needed
        tensor.external_data.add(key="length", value=str(max(0, length)))
    if length < needed or place.offset + length > size:
        message = f"{file}: external data of '{tensor.name}' reach beyond the end of {place.location} ({size} bytes)"
        raise NetadaptError(message, hint="copy the whole file beside the model", code="external-data")
    if length > needed and tensor.data_type != TensorProto.STRING:
        shape = tuple(tensor.dims)
        message = f"{file}: tensor '{tensor.name}' holds {length} bytes, its shape {shape} fewer"
        raise NetadaptError(message, code="not-onnx")
