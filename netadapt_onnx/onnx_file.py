"""An ONNX file and its external data: parsed, hashed and checked before anything is done with it.

Models come from strangers: nothing outside the model's folder is opened, and what a file declares must be there.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.runtime import PROTOBUF_LIMIT, one_line

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class OnnxFile:
    """A parsed file as it is; external data are checked and hashed but not read into `proto`.

    `files` are it and its external data; `sha256` and `size_bytes` cover all of them.
    """

    path: Path
    proto: onnx.ModelProto
    sha256: str
    size_bytes: int
    files: tuple[Path, ...]


def read(path: str | os.PathLike[str], *, hashed: bool = True) -> OnnxFile:
    """Parse an ONNX file; without `hashed` its `sha256` stays empty, and external data are not read.

    Raises NetadaptError: missing file, not ONNX, truncated, external data missing or outside, unknown tensor type.
    """
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
    if proto.ir_version == 0 or not proto.HasField("graph") or not proto.opset_import or not proto.graph.output:
        raise NetadaptError(f"{file} is not an ONNX model: it holds no graph", code="not-onnx")
    digest = hashlib.sha256(data)
    size = len(data)
    del data
    external = _external_files(proto, file)
    buffer = memoryview(bytearray(1 << 20))
    size += sum(location.stat().st_size for location in external)
    for location in external if hashed else ():
        with location.open("rb") as stream:
            while held := stream.readinto(buffer):
                digest.update(buffer[:held])
    for tensor in proto.graph.initializer:
        check_tensor(tensor, file)
    return OnnxFile(file, proto, digest.hexdigest() if hashed else "", size, (file, *external))


def external_locations(proto: onnx.ModelProto) -> tuple[str, ...]:
    """Where a model says that its external data are, each place once."""
    return tuple(dict.fromkeys(_info(tensor).location for tensor in external_tensors(proto)))


def external_tensors(proto: onnx.ModelProto) -> list[TensorProto]:
    """The tensors whose data are in other files."""
    tensors = external_data_helper._get_all_tensors(proto)
    return [tensor for tensor in tensors if external_data_helper.uses_external_data(tensor)]


def load_external(tensor: TensorProto, file: Path) -> None:
    """Bring an external tensor's data into it. Raises NetadaptError if they cannot be read."""
    try:
        external_data_helper.load_external_data_for_tensor(tensor, str(file.parent))
    except Exception as error:
        raise NetadaptError(
            f"{file}: cannot read external data of '{tensor.name}': {one_line(error)}", code="external-data"
        ) from error
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def external_array(tensor: TensorProto, file: Path) -> np.ndarray | None:
    """An external tensor's values, copied once and not three times; None for types that numpy does not have."""
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if dtype.kind not in "iuf" or _bytes_needed(tensor) != prod(tensor.dims) * dtype.itemsize:
        return None
    info, folder = _info(tensor), file.parent.resolve()
    location = (folder / info.location).resolve()
    if not location.is_relative_to(folder):  # `read` has refused it, and it has become a link since
        raise NetadaptError(f"{file}: tensor '{tensor.name}' keeps its data outside the folder", code="external-data")
    with location.open("rb") as stream:
        stream.seek(info.offset or 0)
        values = np.fromfile(stream, dtype.newbyteorder("<"), prod(tensor.dims))
    if values.size != prod(tensor.dims):
        raise NetadaptError(f"{file}: external data of '{tensor.name}' have been cut short", code="external-data")
    return values.reshape(tuple(tensor.dims)).astype(dtype, copy=False)


def check_tensor(tensor: TensorProto, file: Path) -> None:
    """Raise NetadaptError if a tensor's type is unknown, or if it holds other than the bytes that it declares."""
    _check_declared(tensor, file)
    held = len(tensor.raw_data)
    if held and held < _bytes_needed(tensor):
        raise NetadaptError(f"{file}: initializer '{tensor.name}' is truncated", code="not-onnx")
    if held > _bytes_needed(tensor) and tensor.data_type != TensorProto.STRING:
        message = f"{file}: initializer '{tensor.name}' holds {held} bytes, its shape {tuple(tensor.dims)} fewer"
        raise NetadaptError(message, code="not-onnx")


def _check_declared(tensor: TensorProto, file: Path) -> None:
    """Raise NetadaptError if a tensor's type is unknown or its shape impossible."""
    if tensor.data_type not in _KNOWN_TYPES:
        raise NetadaptError(
            f"{file}: initializer '{tensor.name}' has the unknown type {tensor.data_type}", code="not-onnx"
        )
    if any(d < 0 for d in tensor.dims):
        raise NetadaptError(f"{file}: initializer '{tensor.name}' has a negative axis", code="not-onnx")


def _bytes_needed(tensor: TensorProto) -> int:
    """What a tensor's values take as raw data; 0 where nobody knows."""
    name = TensorProto.DataType.Name(tensor.data_type)
    if name == "STRING":
        return 0
    if name.endswith(("INT4", "FLOAT4E2M1", "INT2")):
        bits = 2 if name.endswith("INT2") else 4
    else:
        try:
            bits = 8 * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        except KeyError:
            return 0
    return int(-(-prod(tensor.dims) * bits // 8))


_KNOWN_TYPES = set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}


def _contents(file: Path) -> bytes:
    if not file.is_file():
        raise NetadaptError(f"{file}: no such file", code="missing-file")
    if file.stat().st_size > PROTOBUF_LIMIT:
        raise NetadaptError(
            f"{file} holds {file.stat().st_size} bytes, more than an ONNX file can (2 GiB)",
            hint="keep the weights as external data",
            code="not-onnx",
        )
    data = file.read_bytes()
    if data.startswith(_LFS_POINTER):
        raise NetadaptError(
            f"{file} is a Git LFS pointer and not the model", hint="run `git lfs pull`", code="missing-file"
        )
    return data


def _external_files(proto: onnx.ModelProto, file: Path) -> list[Path]:
    """The files that hold external tensors. Paths, links included, may not leave the model's folder."""
    folder = file.parent.resolve()
    files: dict[Path, None] = {}
    for tensor in external_tensors(proto):
        location = _info(tensor).location
        try:
            target = (folder / location).resolve()
            missing = not target.is_file()
        except (OSError, ValueError):  # a loop of links, a name with a zero in it
            missing, target = True, folder / "?"
        if not target.is_relative_to(folder):
            raise NetadaptError(
                f"{file}: tensor '{tensor.name}' keeps its data outside the model's folder ({location})",
                code="external-data",
            )
        if missing:
            raise NetadaptError(
                f"{file}: external data file '{location}' of tensor '{tensor.name}' is missing",
                hint="copy it beside the model",
                code="external-data",
            )
        _check_extent(tensor, target, file)
        files[target] = None
    return list(files)


def _info(tensor: TensorProto) -> external_data_helper.ExternalDataInfo:
    try:
        return external_data_helper.ExternalDataInfo(tensor)
    except (TypeError, ValueError) as error:
        raise NetadaptError(
            f"tensor '{tensor.name}' does not say where its external data are: {one_line(error)}", code="external-data"
        ) from error


def _check_extent(tensor: TensorProto, target: Path, file: Path) -> None:
    """Raise NetadaptError unless the part of `target` that a tensor names lies within it."""
    info = _info(tensor)
    start, size = info.offset or 0, target.stat().st_size
    length = size - start if info.length is None else info.length
    _check_declared(tensor, file)
    if start < 0 or length < _bytes_needed(tensor) or start + length > size:
        raise NetadaptError(
            f"{file}: external data of '{tensor.name}' reach beyond the end of {target.name} ({size} bytes)",
            hint="copy the whole file beside the model",
            code="external-data",
        )
