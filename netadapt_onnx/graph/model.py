"""ONNX files: read and checked on the way in, checked and written atomically on the way out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.common.files import aside, folder_aside
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.external_data import external_tensors, load_external
from netadapt_onnx.graph.lazy_weights import file_bytes, weights_as_inputs, write
from netadapt_onnx.graph.loadable import Interface, require_openable, require_planned
from netadapt_onnx.graph.normalise import normalise
from netadapt_onnx.graph.onnx_file import OnnxFile, check_tensor, read
from netadapt_onnx.graph.runtime import PROTOBUF_LIMIT
from netadapt_onnx.graph.unread_weights import unread_weights

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

    Raises NetadaptError: missing file, not ONNX, truncated, external data missing or not allowed, unknown tensor type.

    >>> load("model.onnx").proto.opset_import[0].version
    17
    """
    file = read(path)
    load_external(external_tensors(file.proto), file.path)
    for tensor in file.proto.graph.initializer:
        check_tensor(tensor, file.path)
    normalise_file(file)
    return Model(file.path, file.proto, file.sha256, file.size_bytes, file.files)


def load_without_weights(path: str | os.PathLike[str], *, hashed: bool = False) -> Model:
    """The same, but external weights stay in their files where shapes, costs and groups do not depend on their values.

    Where a model has gigabytes that is next to no work; the hash, which takes reading them, is empty unless asked for.
    """
    file = read(path, hashed=hashed)
    unread = unread_weights(file.proto)
    wanted = [tensor for tensor in external_tensors(file.proto) if tensor.name not in unread]
    load_external(wanted, file.path)
    for tensor in wanted:
        check_tensor(tensor, file.path)
    normalise_file(file)
    return Model(file.path, file.proto, file.sha256, file.size_bytes, file.files)


def normalise_file(file: OnnxFile) -> None:
    """Normalise in place. Raises NetadaptError for what is no valid model."""
    try:
        normalise(file.proto)
    except NetadaptError:
        raise
    except Exception as error:
        raise NetadaptError(f"{file.path} is not a valid ONNX model: {one_line(error)}", code="not-onnx") from error


def input_specs(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]] | None = None, batch_size: int = 1
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Concrete shape and dtype of each graph input.

    A dynamic first axis becomes `batch_size`; any other dynamic axis must be given in `shapes`, else NetadaptError
    (`required_shapes.py` says beforehand what is missing).
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
        elif known is None or None in known[1:]:
            raise NetadaptError(f"the shape of input '{value.name}' is open", code="dynamic-axis")
        else:
            shape = tuple(batch_size if k is None else k for k in known)
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


def node_name(node: onnx.NodeProto) -> str:
    """A node's name; one without is called after its first output."""
    return node.name or next((name for name in node.output if name), node.op_type)


def _times(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if d is None else str(d) for d in shape)


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read one `--shape NAME=1x3x224x224`."""
    match = re.fullmatch(r"(.+)=(\d{1,18}(?:x\d{1,18})*)", text)
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
    planned: Interface | None = None,
) -> Path:
    """Check and write a model: to a temporary name first, then renamed. `metadata` goes into `metadata_props`.

    Above protobuf's 2 GiB the weights go into `NAME.data` beside it. Raises NetadaptError if `path` exists without
    `overwrite`, if the ONNX checker or onnxruntime refuses the model, or if it does not return what is `planned`; then
    nothing is left of it, and what was there before is.
    """
    file = Path(path)
    refuse_existing(file, overwrite)
    if metadata:
        proto = _with_metadata(proto, metadata)
    if planned is not None:
        require_planned(proto, planned)
    check(proto)
    if file_bytes(proto) > PROTOBUF_LIMIT:
        _save_large(proto, file, overwrite, planned)
        return file
    with aside(file) as temporary:
        with temporary.open("wb") as stream:
            write(proto, stream)
        require_openable(temporary, planned)
    return file


def _save_large(proto: onnx.ModelProto, file: Path, overwrite: bool, planned: Interface | None) -> None:
    """The same with the weights in a file beside it; both are made in a folder, where they have their final names."""
    refuse_existing(data_file(file), overwrite)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    with aside(file) as temporary, folder_aside(temporary) as folder:
        named = folder / file.name
        onnx.save_model(copy, str(named), save_as_external_data=True, location=data_file(file).name)
        require_openable(named, planned)
        data_file(named).replace(data_file(file))
        temporary.write_bytes(named.read_bytes())


def data_file(model: Path) -> Path:
    """Where `save` keeps the weights of a model that is too large for one file."""
    return Path(f"{model}.data")


def check(proto: onnx.ModelProto) -> None:
    """The ONNX checker, on all but the weights. Outputs may lack a shape, as the original's may.

    Strict shape inference is not asked: real exports often declare shapes that it refuses.
    """
    light = weights_as_inputs(proto)
    for value in light.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(light)
    except Exception as error:
        raise NetadaptError(f"the model is not valid ONNX: {one_line(error)}", code="not-onnx") from error


def _with_metadata(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    merged = {p.key: p.value for p in proto.metadata_props} | dict(metadata)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, merged)
    return proto
