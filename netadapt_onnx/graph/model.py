"""ONNX files: read and checked on the way in, checked and written atomically on the way out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import onnx

from netadapt_onnx.common.files import aside, folder_aside, refuse_existing
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.external_data import external_tensors, load_external
from netadapt_onnx.graph.file_description import FileDescription, describe
from netadapt_onnx.graph.lazy_weights import unread_weights
from netadapt_onnx.graph.loadable import Interface, require_openable, require_planned
from netadapt_onnx.graph.onnx_file import OnnxFile, check_tensor, read
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import PROTOBUF_LIMIT
from netadapt_onnx.graph.weightless import file_bytes, weights_as_inputs, write


@dataclass(frozen=True)
class Model(OnnxFile):
    """An ONNX model after normalisation (`passes/pipeline.py`). `proto` is read-only by agreement: change a copy.

    `path` is the file it came from, `files` that and its external data; `sha256` and `size_bytes` cover all of them.
    `description` is of the file as it was before.
    """

    description: FileDescription


def load(path: str | os.PathLike[str]) -> Model:
    """Read and normalise an ONNX file.

    Raises NetadaptError: missing file, not ONNX, truncated, external data missing or not allowed, unknown tensor type.

    >>> load("model.onnx").proto.opset_import[0].version
    17
    """
    return _loaded(read(path), frozenset())


def load_without_weights(path: str | os.PathLike[str], *, hashed: bool = False) -> Model:
    """Read and normalise an ONNX file; weights stay in external files where no shape, cost or group depends on them.

    Args:
        path: the file.
        hashed: whether `sha256` is computed, for which the weights are read; else it is empty.

    Raises:
        NetadaptError: as `load` does.
    """
    file = read(path, hashed=hashed)
    return _loaded(file, unread_weights(file.proto))


def _loaded(file: OnnxFile, unread: Set[str]) -> Model:
    """The model of a file, all of whose external tensors are read and checked but for those `unread`."""
    tensors = [tensor for tensor in external_tensors(file.proto) if tensor.name not in unread]
    load_external(tensors, file.path)
    for tensor in tensors:
        check_tensor(tensor, file.path)
    description = describe(file.proto)
    normalise_file(file)
    return Model(file.path, file.proto, file.sha256, file.size_bytes, file.files, description)


def normalise_file(file: OnnxFile) -> None:
    """Normalise in place. Raises NetadaptError for what is no valid model."""
    try:
        normalise(file.proto)
    except NetadaptError:
        raise
    except Exception as error:
        raise NetadaptError(f"{file.path} is not a valid ONNX model: {one_line(error)}", code="not-onnx") from error


def save(
    proto: onnx.ModelProto,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    planned: Interface | None = None,
) -> Path:
    """Check and write a model, to a temporary name first, which is then renamed.

    Above protobuf's 2 GiB the weights go into `NAME.data` beside it.

    Args:
        proto: the model.
        path: the file to write.
        metadata: further entries for `metadata_props`.
        overwrite: whether an existing file is replaced.
        planned: what the model should take and return.

    Returns:
        The file.

    Raises:
        NetadaptError: if `path` exists without `overwrite`, if the ONNX checker or onnxruntime refuses the model, or if
            it does not return what is planned. Then no file is written, and an existing one stays as it was.
    """
    file = Path(path)
    refuse_existing(file, overwrite)
    if metadata:
        onnx.helper.set_model_props(proto, {p.key: p.value for p in proto.metadata_props} | dict(metadata))
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
