"""A model's file as its owner runs it, and whether a runtime makes the same of it as of its normalised form.

Often it does not. Initializers that are listed among the inputs may be overridden (from IR version 4 on), so that
onnxruntime folds and fuses nothing of them; and what a file computes from shapes at every run, folding made a constant.
"""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.external_data import external_tensors, load_external
from netadapt_onnx.graph.model import Model
from netadapt_onnx.graph.nodes import captured, domain_of, is_standard, opset_version, subgraphs_of
from netadapt_onnx.graph.onnx_file import read
from netadapt_onnx.graph.passes.constants_to_initializers import constant_value
from netadapt_onnx.graph.passes.normalise_declarations import MINIMUM_IR
from netadapt_onnx.graph.runtime import PROTOBUF_LIMIT, optimised, session
from netadapt_onnx.graph.weightless import file_bytes

# What a device says of a file that it cannot run as it is.
REFUSED = frozenset({"unloadable", "unrunnable", "not-portable", "unquantisable", "fell-back"})

Operands = Mapping[str, Hashable]


def stands_in(error: NetadaptError) -> str:
    """What to say where a device cannot run the file as it is. Raises every other error again."""
    if error.code not in REFUSED:
        raise error
    return _note(error)


def _note(error: NetadaptError) -> str:
    return f"the file as given: {error.message}; its normalised form stands for it"


@dataclass(frozen=True)
class AsGiven:
    """The file of a model, whose hash is `sha256`, as its owner runs it.

    `proto` is None where a runtime makes the same of it as of the normalised model, or, then `note` says why, where
    that has to stand for it.
    """

    sha256: str
    proto: onnx.ModelProto | None = None
    note: str = ""


def as_given(model: Model, normalised: onnx.ModelProto, *, always: bool = False) -> AsGiven:
    """The file of `model` beside what normalising and folding made of it; `always`: whatever a runtime makes of it.

    Both are the same to any runtime if they are node by node, or once onnxruntime has applied its basic optimisations,
    which come before all others and are the same for every execution provider.
    """
    try:
        proto = read_as_given(model, weights=False)
        alike = not always and _signature(proto) == _signature(normalised)
        if not alike:
            load_external(external_tensors(proto), model.path)
            alike = not always and _optimised_alike(proto, normalised)
        return AsGiven(model.sha256, None if alike else proto)
    except NetadaptError as error:
        return AsGiven(model.sha256, note=_note(error))


def runs_as_given(model: Model) -> tuple[onnx.ModelProto, str]:
    """What to time of a file: itself; where that cannot be run its normalised form, and why."""
    try:
        proto = read_as_given(model)
        session(proto)
    except NetadaptError as error:
        return model.proto, f"{model.path}, as it is, was not timed, but its normalised form: {error.message}"
    return proto, ""


def read_as_given(model: Model, *, weights: bool = True) -> onnx.ModelProto:
    """The graph of a model's file; without `weights` those that are external data stay in their files.

    Raises NetadaptError if it is no longer the file that was loaded.
    """
    file = read(model.path)
    if file.sha256 != model.sha256:
        raise NetadaptError(f"{model.path} is no longer the file that was loaded", code="changed-file")
    if weights:
        load_external(external_tensors(file.proto), file.path)
    return file.proto


def _optimised_alike(proto: onnx.ModelProto, normalised: onnx.ModelProto) -> bool:
    if max(map(file_bytes, (proto, normalised))) > PROTOBUF_LIMIT:  # gigabytes would be written for nothing but this
        return False
    with tempfile.TemporaryDirectory(prefix="netadapt-") as folder:
        try:
            return _signature(optimised(proto, Path(folder))) == _signature(optimised(normalised, Path(folder)))
        except NetadaptError:  # this onnxruntime lacks something: the device may not
            return False


def _signature(proto: onnx.ModelProto) -> Hashable:
    """Operators, attributes, what they read, and shapes and types of inputs and constants, in order.

    Names, values of constants and declared shapes of other tensors are left out: no time depends on them.
    """
    return opset_version(proto, 0), _graph(proto.graph, {}, proto.ir_version >= MINIMUM_IR, 0)


def _graph(graph: onnx.GraphProto, outer: Operands, overridable: bool, depth: int) -> Hashable:
    listed = {value.name for value in graph.input} if overridable else set()
    constants = {t.name: ("default" if t.name in listed else "constant", *_tensor(t)) for t in graph.initializer}
    read = {v.name for v in graph.output}.union(*({*node.input, *captured(node)} for node in graph.node))
    # Before IR version 4 constants stay among the inputs after onnxruntime has folded them away.
    fed = [value for value in graph.input if value.name not in constants and value.name in read]
    inputs = {value.name: ("input", depth, i) for i, value in enumerate(fed)}
    sparse = {t.values.name: ("sparse", tuple(t.dims)) for t in graph.sparse_initializer}
    operand_by_name: dict[str, Hashable] = {**outer, **inputs, **constants, **sparse, "": None}
    nodes: list[Hashable] = []
    for node in graph.node:
        value = constant_value(node) if is_standard(node, "Constant") else None
        if value is not None:
            operand_by_name[node.output[0]] = ("constant", *_tensor(value))
            continue
        operand_by_name |= {name: ("node", depth, len(nodes), i) for i, name in enumerate(node.output)}
        plain = [a for a in node.attribute if not (a.HasField("g") or a.graphs)]
        attributes = sorted((a.name, a.SerializeToString(deterministic=True)) for a in plain)
        operands = tuple(operand_by_name.get(name) for name in node.input)
        inner = tuple(_graph(body, operand_by_name, False, depth + 1) for body in subgraphs_of(node))
        nodes.append((domain_of(node), node.op_type, tuple(attributes), operands, len(node.output), inner))
    types = tuple(value.type.SerializeToString(deterministic=True) for value in fed)
    return types, tuple(nodes), tuple(operand_by_name.get(value.name) for value in graph.output)


def _tensor(tensor: onnx.TensorProto) -> tuple[int, tuple[int, ...]]:
    return tensor.data_type, tuple(tensor.dims)
