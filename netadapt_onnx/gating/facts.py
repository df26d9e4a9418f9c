"""Reads the facts of a model file: it is counted, checked and loaded, but never run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path

import onnx
from onnx import TensorProto

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.records import Facts, Layer
from netadapt_onnx.graph.cost import CostModel, LayerCost
from netadapt_onnx.graph.external_data import external_data, external_tensors, forget_location, load_external
from netadapt_onnx.graph.file_description import describe
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.model import check, load_without_weights, normalise_file
from netadapt_onnx.graph.nodes import captured
from netadapt_onnx.graph.onnx_file import OnnxFile, check_tensor, read
from netadapt_onnx.graph.passes.constants_to_initializers import constant_value
from netadapt_onnx.graph.runtime import session
from netadapt_onnx.graph.shapes import type_name
from netadapt_onnx.graph.weightless import weights_as_inputs
from netadapt_onnx.surgery.flatten_subgraphs import flatten
from netadapt_onnx.surgery.layer_graph import LayerGraph, layer_graph
from netadapt_onnx.surgery.trace import trace_model

Shapes = Mapping[str, Sequence[int]]

# What reads weights without looking at their values for a shape or a constant.
_READERS = {
    "BatchNormalization", "Cast", "Conv", "ConvInteger", "ConvTranspose", "DequantizeLinear", "GRU", "Gather", "Gemm",
    "LSTM", "MatMul", "MatMulInteger", "MatMulNBits", "QLinearConv", "QLinearMatMul", "RNN", "Transpose",
}  # fmt: skip
_OPEN = "dynamic-axis"


def read_facts(
    path: str | Path,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    *,
    digests: bool = False,
    largest_bytes: float = inf,
) -> Facts:
    """Read, check and count a model file.

    Args:
        path: the file.
        shapes: those of inputs whose axes beyond the first are dynamic.
        batch_size: the size of a dynamic first axis.
        digests: whether the values of weights are hashed.
        largest_bytes: the size of the largest tensor that is allowed.

    Raises:
        NetadaptError: the file is no ONNX model, fails the ONNX checker, does not load in onnxruntime, or declares a
            tensor of more than `largest_bytes`.
    """
    file = read(path)
    input_shapes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    described = _description(file.proto)
    hashes = _digests(file) if digests else {}
    _check(file)
    try:
        folded = fold(file.proto, input_shapes, batch_size, in_place=True, loops=False)
    except NetadaptError as error:
        if error.code != _OPEN:
            raise
        counted = _without_shapes(file.proto, f"{error.message}: {error.hint}")
    else:
        if folded.unrunnable is not None:
            raise NetadaptError(f"{file.path} does not load: {folded.unrunnable}", code="unloadable")
        _refuse_large(folded, largest_bytes)
        counted = _with_shapes(flatten(folded, loops=False)[0])
    return Facts(
        file.sha256,
        file.size_bytes,
        sum(layer.params for layer in counted.layers) + counted.inner_params,
        sum(layer.macs for layer in counted.layers) if counted.macs else None,
        counted.memory_bytes,
        counted.unknown,
        *described,
        _layers(counted, hashes),
    )


@dataclass(frozen=True)
class _Counts:
    """The counts of a model.

    `macs`: whether those of the layers are known; `unknown`: why they, or the memory, are not.
    """

    proto: onnx.ModelProto
    layers: tuple[LayerCost, ...]
    inner_params: int
    macs: bool
    memory_bytes: int | None
    unknown: str


def _with_shapes(folded: FoldedModel) -> _Counts:
    model = CostModel(folded.proto)
    produced = [name for node in folded.proto.graph.node for name in node.output if name]
    missing = next((name for name in produced if name not in folded.shapes), None)
    unknown = "" if missing is None else f"only a run would show the shape of tensor '{missing}'"
    memory = model.memory_bytes(folded.shapes) if missing is None else None
    try:
        layers = model.layers(folded.shapes)
    except NetadaptError as error:
        layers = model.layers(folded.shapes, macs=False)
        return _Counts(folded.proto, layers, model.inner_params, False, None, unknown or error.message)
    return _Counts(folded.proto, layers, model.inner_params, True, memory, unknown)


def _without_shapes(proto: onnx.ModelProto, unknown: str) -> _Counts:
    """Count parameters alone, and check that the model loads."""
    session(weights_as_inputs(proto), optimise=False)
    model = CostModel(proto)
    layers = model.layers({t.name: tuple(t.dims) for t in proto.graph.initializer}, macs=False)
    return _Counts(proto, layers, model.inner_params, False, None, unknown)


def _refuse_large(folded: FoldedModel, largest_bytes: float) -> None:
    """Raise NetadaptError for a tensor that is too large: a file of a hundred bytes can ask for terabytes."""
    for name, shape in folded.shapes.items():
        size = prod(shape) * folded.dtypes[name].itemsize
        if size > largest_bytes:
            raise NetadaptError(
                f"tensor '{name}' would take {size / 1e9:.3g} GB", hint="raise --memory-limit", code="too-large"
            )


def _check(file: OnnxFile) -> None:
    """Run the ONNX checker, and normalise; weights in other files stay there."""
    proto = file.proto
    readers: dict[str, set[str]] = {}
    for node in proto.graph.node:
        for name in [*node.input, *captured(node)]:
            readers.setdefault(name, set()).add(node.op_type)
    for tensor in external_tensors(proto):
        if not readers.get(tensor.name, {"?"}) <= _READERS:
            load_external([tensor], file.path)
            check_tensor(tensor, file.path)
        else:
            forget_location(tensor)
    check(proto)
    normalise_file(file)


def _description(proto: onnx.ModelProto) -> tuple[dict[str, int], dict[str, str], dict[str, str], dict[str, str]]:
    """Opset, inputs, outputs and metadata."""
    description = describe(proto)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if description.producer:
        metadata["producer"] = description.producer
    return (
        dict(description.opset),
        {tensor.name: tensor.text for tensor in description.inputs},
        {tensor.name: tensor.text for tensor in description.outputs},
        metadata,
    )


def _layers(counted: _Counts, hashes: Mapping[str, str]) -> tuple[Layer, ...]:
    constants = {t.name: t for t in counted.proto.graph.initializer}
    layers = []
    for cost in counted.layers:
        tensors = [constants[name] for name in cost.weights]
        layers.append(
            Layer(
                cost.name,
                cost.op,
                cost.params,
                cost.macs if counted.macs else None,
                tuple("x".join(map(str, t.dims)) or "scalar" for t in tensors),
                tuple(dict.fromkeys(type_name(t.data_type) for t in tensors)),
                _combined(tensors, hashes),
            )
        )
    return tuple(layers)


def _digests(file: OnnxFile) -> dict[str, str]:
    """Hash each constant's values, by name."""
    graph = file.proto.graph
    digests = {t.name: _digest(t, file) for t in graph.initializer}
    for node in graph.node:
        value = constant_value(node) if node.op_type == "Constant" else None
        if value is not None:
            digests[node.output[0]] = _digest(value, file)
    return digests


def _digest(tensor: TensorProto, file: OnnxFile) -> str:
    if tensor.data_location == TensorProto.EXTERNAL:
        copy = TensorProto()
        copy.CopyFrom(tensor)
        load_external([copy], file.path)
        tensor = copy
    data = tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
    return hashlib.sha256(data).hexdigest()


def _combined(tensors: Sequence[TensorProto], hashes: Mapping[str, str]) -> str:
    """Hash a layer's weights, those computed on loading included; the hash is empty where none are wanted."""
    if not hashes:
        return ""
    digest = hashlib.sha256()
    for t in tensors:
        digest.update(hashes.get(t.name, "").encode() or t.raw_data)
    return digest.hexdigest()[:16]


def connect_layers(path: str, shapes: Shapes, batch_size: int) -> LayerGraph:
    """How the layers of a model file are connected, and how wide they are.

    Raises NetadaptError: the file is no ONNX model, or an axis needs `shapes`.
    """
    input_shapes = {name: tuple(shape) for name, shape in shapes.items()}
    return layer_graph(trace_model(load_without_weights(path), input_shapes, batch_size, in_place=True))


def locate(path: Path) -> list[str]:
    """List the places of a model's external data, each once.

    Raises NetadaptError for what is no ONNX file, and for places where a model may not keep data.
    """
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:
        raise NetadaptError(f"{path} is not an ONNX file, or it is truncated", code="not-onnx") from error
    return list(dict.fromkeys(external_data(tensor, path).location for tensor in external_tensors(proto)))
