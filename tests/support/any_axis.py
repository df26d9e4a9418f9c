"""Models of one operator each, with channels on any axis of any of its inputs: what a rule must answer for.

The operator of a case (`rule_cases.py`) is taken out of it, with its constants and its runtime inputs, which become
inputs of the model. In front of every axis of every one of those stands a layer, a MatMul along that axis, in a copy of
the operator of its own; in one more copy there is one in front of every axis at once. What the copies put out may be
resized, so that a channel stays only where the operator's rule says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import captured
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import random_inputs, run, session

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """One node, its constants, and the shapes and types of its runtime inputs."""

    node: onnx.NodeProto
    constants: tuple[onnx.TensorProto, ...]
    inputs: Mapping[str, tuple[Shape, np.dtype[Any]]]
    outputs: Mapping[str, np.dtype[Any]]
    opsets: tuple[onnx.OperatorSetIdProto, ...]

    def with_batches(self) -> Iterator[Operator]:
        """The same with what occurs once occurring twice: on every axis, on every first axis, and as it is."""
        for wide in (lambda shape: [2 if n == 1 else n for n in shape], lambda s: [2 if s[0] == 1 else s[0], *s[1:]]):
            inputs = {name: (tuple(wide(s)) if s else s, dtype) for name, (s, dtype) in self.inputs.items()}
            if inputs != self.inputs:
                yield Operator(self.node, self.constants, inputs, self.outputs, self.opsets)
        yield self

    def places(self) -> list[tuple[int, int]]:
        """Every axis of every runtime input that could carry channels: (input number, axis)."""
        return [
            (slot, axis)
            for slot, name in enumerate(self.node.input)
            if name in self.inputs
            for axis, n in enumerate(self.inputs[name][0])
            if n > 1
        ]


def operators(proto: onnx.ModelProto, domain: str, op: str) -> list[Operator]:
    """The nodes of that operator in a model, each on its own; one of several that are alike."""
    normalise(proto)
    folded = fold(proto)
    tensors = {t.name: t for t in folded.proto.graph.initializer}
    result: dict[str, Operator] = {}
    for node in folded.proto.graph.node:
        names = [name for name in dict.fromkeys([*node.input, *captured(node)]) if name]
        if (node.domain, node.op_type) != (domain, op) or not all(
            name in folded.shapes for name in node.output if name
        ):
            continue
        runtime = {name: (folded.shapes[name], folded.dtypes[name]) for name in names if name not in tensors}
        operator_case = Operator(
            node,
            tuple(tensors[name] for name in names if name in tensors),
            runtime,
            {name: folded.dtypes[name] for name in node.output if name},
            tuple(proto.opset_import),
        )
        result.setdefault(_kind(operator_case), operator_case)
    return list(result.values())


def _kind(operator: Operator) -> str:
    attributes = sorted(str(a) for a in operator.node.attribute)
    places = [name in operator.inputs for name in operator.node.input]
    return f"{attributes} {places} {[s for s, _ in operator.inputs.values()]}"


def probed(operator: Operator) -> FoldedModel | None:
    """The operator with a layer in front of every axis of every input; the most batches with which it can be run."""
    for variant in operator.with_batches():
        model = probe(variant)
        if not model.graph.output:
            continue
        try:
            normalise(model)
            folded = fold(model)
            if not folded.unrunnable:
                run(session(folded.proto, optimise=False), random_inputs(folded.specs))
            return folded
        except NetadaptError:
            continue
    return None


def probe(operator: Operator) -> onnx.ModelProto:
    """The model with one copy of the operator per axis: `inI.A` is the layer, `OUT.inI.A` what the copy puts out."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    places = operator.places()
    copies = {f"in{slot}.{axis}": [(slot, axis)] for slot, axis in places}
    if places:
        copies["all"] = places
    for label, layers in copies.items():
        fed = {tensor.name: f"{tensor.name}.{label}" for tensor in operator.constants}
        fed_inputs = [fed.get(name, name) for name in operator.node.input]
        for slot, axis in layers:
            name = operator.node.input[slot]
            layer = label if len(layers) == 1 else f"{label}{slot}.{axis}"
            nodes += _layer(fed_inputs[slot], *operator.inputs[name], axis, layer, constants, rng)
            fed_inputs[slot] = layer
        for tensor in operator.constants:
            constants.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
            constants[-1].name = fed[tensor.name]
        copy = onnx.NodeProto.FromString(operator.node.SerializeToString())
        copy.name = f"op.{label}"
        copy.input[:] = fed_inputs
        copy.output[:] = [f"{y}.{label}" if y else "" for y in operator.node.output]
        nodes.append(copy)
        outputs += [
            helper.make_tensor_value_info(f"{y}.{label}", helper.np_dtype_to_tensor_dtype(dtype), None)
            for y, dtype in operator.outputs.items()
        ]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)
        for name, (shape, dtype) in operator.inputs.items()
    ]
    graph = helper.make_graph(nodes, "probe", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=operator.opsets, ir_version=10)


def _layer(
    x: str,
    shape: Shape,
    dtype: np.dtype[Any],
    axis: int,
    y: str,
    constants: list[onnx.TensorProto],
    rng: np.random.Generator,
) -> list[onnx.NodeProto]:
    """A MatMul along one axis. Integers go through it unchanged, so that indices stay what they are."""
    n, rank = shape[axis], len(shape)
    order = [k for k in range(rank) if k != axis] + [axis]
    back = np.argsort(order).tolist()
    weight = np.eye(n) + (0.2 * rng.standard_normal((n, n)) if dtype.kind == "f" else 0)
    constants.append(numpy_helper.from_array(weight.astype(np.float32), f"{y}.weight"))
    return [
        helper.make_node("Cast", [x], [f"{y}.float"], f"{y}.cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", [f"{y}.float"], [f"{y}.last"], f"{y}.there", perm=order),
        helper.make_node("MatMul", [f"{y}.last", f"{y}.weight"], [f"{y}.product"], y),
        helper.make_node("Transpose", [f"{y}.product"], [f"{y}.moved"], f"{y}.back", perm=back),
        helper.make_node("Cast", [f"{y}.moved"], [y], f"{y}.typed", to=helper.np_dtype_to_tensor_dtype(dtype)),
    ]
