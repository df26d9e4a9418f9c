"""ONNX files: read and checked on the way in, checked and written atomically on the way out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import external_data_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.normalise import normalise
from netadapt_onnx.runtime import PROTOBUF_LIMIT, one_line

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Model:
    """An ONNX model after normalisation (`normalise.py`). `proto` is read-only by agreement: change a copy.

    `path` is the file it came from, `files` that and its external data; `sha256` and `size_bytes` cover all of them.
    """

    path: Path
    proto: onnx.ModelProto
    sha256: str
    size_bytes: int
    files: tuple[Path, ...]


def load(path: str | os.PathLike[str]) -> Model:
    """Read and normalise an ONNX file.

    Raises NetadaptError: missing file, not ONNX, truncated, external data missing or outside, unknown tensor type.
    """
    file = Path(path)
    if not file.is_file():
        raise NetadaptError(f"{file}: no such file", code="missing-file")
    data = file.read_bytes()
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError lives in a private module
        raise NetadaptError(f"{file} is not an ONNX file, or it is truncated", code="not-onnx") from error
    if proto.ir_version == 0 or not proto.HasField("graph") or not proto.opset_import or not proto.graph.output:
        raise NetadaptError(f"{file} is not an ONNX model: it holds no graph", code="not-onnx")
    digest = hashlib.sha256(data)
    size = len(data)
    del data
    external = _load_external(proto, file)
    for location in external:
        digest.update(location.read_bytes())
        size += location.stat().st_size
    _check_initializers(proto, file)
    try:
        normalise(proto)
    except NetadaptError:
        raise
    except Exception as error:
        raise NetadaptError(f"{file} is not a valid ONNX model: {one_line(error)}", code="not-onnx") from error
    return Model(file, proto, digest.hexdigest(), size, (file, *external))


def _load_external(proto: onnx.ModelProto, file: Path) -> list[Path]:
    """Bring external tensors into `proto`; returns the files read. Paths may not leave the model's folder."""
    folder = file.parent
    files: dict[Path, None] = {}
    for tensor in external_data_helper._get_all_tensors(proto):
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = external_data_helper.ExternalDataInfo(tensor).location
        target = (folder / location).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise NetadaptError(
                f"{file}: tensor '{tensor.name}' keeps its data outside the model's folder ({location})",
                code="external-data",
            )
        if not target.is_file():
            raise NetadaptError(
                f"{file}: external data file '{location}' of tensor '{tensor.name}' is missing",
                hint="copy it beside the model",
                code="external-data",
            )
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:
            raise NetadaptError(
                f"{file}: cannot read external data of '{tensor.name}': {one_line(error)}", code="external-data"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
        files[target] = None
    return list(files)


def _check_initializers(proto: onnx.ModelProto, file: Path) -> None:
    known = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
    for tensor in proto.graph.initializer:
        if tensor.data_type not in known:
            raise NetadaptError(
                f"{file}: initializer '{tensor.name}' has the unknown type {tensor.data_type}", code="not-onnx"
            )
        if not tensor.raw_data or tensor.data_type == onnx.TensorProto.STRING:
            continue
        try:
            width = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        except KeyError:
            continue
        if width * int(np.prod(list(tensor.dims), dtype=np.int64)) > 2 * len(tensor.raw_data):  # packed 4-bit: half
            raise NetadaptError(f"{file}: initializer '{tensor.name}' is truncated", code="not-onnx")


def input_specs(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]] | None = None, batch_size: int = 1
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Concrete shape and dtype of each graph input.

    A dynamic first axis becomes `batch_size`; any other dynamic axis must be given in `shapes`, else NetadaptError.
    """
    given = dict(shapes or {})
    specs: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for value in proto.graph.input:
        if not value.type.HasField("tensor_type"):
            raise NetadaptError(f"input '{value.name}' is not a tensor", code="unsupported")
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        except KeyError:
            number = value.type.tensor_type.elem_type
            raise NetadaptError(f"input '{value.name}' has the unknown type {number}", code="not-onnx") from None
        known = declared_shape(value)
        if value.name in given:
            shape = given.pop(value.name)
            if known is not None and (
                len(known) != len(shape) or any(k is not None and k != s for k, s in zip(known, shape, strict=True))
            ):
                raise NetadaptError(f"--shape {value.name}={_times(shape)} does not fit the input {_times(known)}")
        elif known is None:
            raise NetadaptError(
                f"input '{value.name}' has no shape", hint=f"give one with --shape {value.name}=1x3x224x224"
            )
        else:
            filled = tuple(batch_size if i == 0 and k is None else k for i, k in enumerate(known))
            if any(k is None for k in filled):
                raise NetadaptError(
                    f"input '{value.name}' has a dynamic axis beyond the first: {_times(known)}",
                    hint=f"give its shape with --shape {value.name}=1x3x224x224",
                    code="dynamic-axis",
                )
            shape = tuple(k for k in filled if k is not None)
        if 0 in shape:
            raise NetadaptError(f"input '{value.name}' is empty: {_times(shape)}", code="unsupported")
        specs[value.name] = (shape, dtype)
    if given:
        raise NetadaptError(
            f"--shape names no input of the model: {', '.join(given)}",
            hint=f"its inputs are {', '.join(specs)}",
        )
    return specs


def declared_shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """The shape written in the file; None for a dynamic axis, None altogether when the file gives no shape."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in value.type.tensor_type.shape.dim
    )


def dynamic_batch_inputs(proto: onnx.ModelProto) -> list[str]:
    """Names of the inputs whose first axis is dynamic."""
    shapes = {v.name: declared_shape(v) for v in proto.graph.input}
    return [name for name, shape in shapes.items() if shape and shape[0] is None]


def _times(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if d is None else str(d) for d in shape)


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read one `--shape NAME=1x3x224x224`."""
    match = re.fullmatch(r"(.+)=(\d+(?:x\d+)*)", text)
    if not match:
        raise NetadaptError(f"--shape {text}: expected NAME=1x3x224x224")
    return match[1], tuple(int(d) for d in match[2].split("x"))


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise NetadaptError if `path` exists and may not be replaced (only a file ever may), or its folder is missing."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise NetadaptError(f"{path} exists and is {what}", hint="name a file", code="exists")
    if path.exists() and not overwrite:
        raise NetadaptError(f"{path} exists", hint="choose another path or pass --overwrite", code="exists")
    if not path.parent.is_dir():
        raise NetadaptError(f"{path.parent}: no such folder", code="missing-file")


def save(
    proto: onnx.ModelProto,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Check and write a model: to a temporary name first, then renamed. `metadata` goes into `metadata_props`.

    Above protobuf's 2 GiB the weights go into `NAME.data` beside it. Raises NetadaptError if `path` exists without
    `overwrite` or if the ONNX checker refuses the model.
    """
    file = Path(path)
    refuse_existing(file, overwrite)
    if metadata:
        proto = _with_metadata(proto, metadata)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        if proto.ByteSize() > PROTOBUF_LIMIT:
            refuse_existing(data_file(file), overwrite)
            copy = onnx.ModelProto()
            copy.CopyFrom(proto)
            onnx.save_model(copy, str(temporary), save_as_external_data=True, location=data_file(file).name)
            onnx.checker.check_model(str(temporary))
        else:
            check(proto)
            temporary.write_bytes(proto.SerializeToString())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def data_file(model: Path) -> Path:
    """Where `save` keeps the weights of a model that is too large for one file."""
    return Path(f"{model}.data")


def check(proto: onnx.ModelProto) -> None:
    """The ONNX checker. Strict shape inference is not asked: real exports often declare shapes that it refuses."""
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        raise NetadaptError(f"the model is not valid ONNX: {one_line(error)}", code="not-onnx") from error


def _with_metadata(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    merged = {p.key: p.value for p in proto.metadata_props} | dict(metadata)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, merged)
    return proto
