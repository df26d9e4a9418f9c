"""What depends on no value of an input becomes a constant, but for what depends on sizes that the file leaves open.

Shape subgraphs hold channel counts as constants, so that no cut is safe while they are there. What depends on the batch
size alone stays dynamic by a formula in it (`symbolic_batch.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.nodes import captured, node_name, replace_all
from netadapt_onnx.graph.passes.result import PassResult
from netadapt_onnx.graph.shapes import Specs, spec_bytes
from netadapt_onnx.graph.size_dependence import SizeDependence, TensorValues
from netadapt_onnx.graph.symbolic_batch import SymbolicBatch

# Views of weights: the initializer stays the parameter, under its own name, and surgery and training look through them.
KEPT_ON_WEIGHTS = {"Transpose", "Cast", "DequantizeLinear", "QuantizeLinear"}
# A constant that would grow the file by more than this (an expanded grid, say) stays computed.
LARGEST_GROWTH_BYTES = 1 << 20

Tensors = Mapping[str, onnx.TensorProto]


def fold_constants(
    proto: onnx.ModelProto,
    graph: onnx.GraphProto,
    initializers: Tensors,
    values: TensorValues,
    dependence: SizeDependence,
) -> PassResult[onnx.ModelProto]:
    """Give a model, in place, the nodes of an evaluated graph that stay, and constants for the others.

    Args:
        proto: the model, whose own nodes are replaced; initializers that it has already are not touched.
        graph: the graph, without its initializers.
        initializers: those by name.
        values: the values of its tensors.
        dependence: what of them depends on sizes that the file leaves open.

    Returns:
        The model, and whether it differs from the evaluated graph.
    """
    other = dependence.next_batch
    batch_made = {name for name in dependence.shape_made if _depends_on_batch(name, values, other)}
    computed = dependence.computed | {name for name in batch_made if _has_no_formula(name, values, other)}
    kept, needed = _kept_nodes(graph, initializers, values, dependence.shape_made, computed)
    produced = {name for node in kept for name in node.output}
    missing = needed - produced - initializers.keys()
    folded = [name for node in graph.node for name in node.output if name in missing]
    constants = [tensor for name, tensor in initializers.items() if name in needed]
    used_names = needed | {node_name(node) for node in kept} | {v.name for v in graph.input}
    formulas, tensors = _write_back(folded, kept, used_names, batch_made, values, dependence)
    constants = [dependence.wildcards.get(tensor.name, tensor) for tensor in [*constants, *tensors]]
    changed = len(kept) < len(graph.node) or {tensor.name for tensor in constants} != initializers.keys()
    _replace_contents(proto.graph, [*formulas, *kept], constants)
    return PassResult(proto, changed)


def _kept_nodes(
    graph: onnx.GraphProto,
    initializers: Tensors,
    values: TensorValues,
    shape_made: Set[str],
    computed: Set[str],
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that stay, in order, and the names of all tensors that they read or the graph puts out.

    `computed` are the tensors that have to be computed, `shape_made` those that depend on the shape of something.
    """
    needed = {v.name for v in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # what is still read once its readers are known to stay
        outputs = [name for name in node.output if name in needed]
        foldable = computed.isdisjoint(outputs) and all(map(values.has_value, outputs))
        if not foldable or _stays(node, initializers, values.tensor_specs, shape_made):
            kept.append(node)
            needed.update([*node.input, *captured(node)])
    kept.reverse()
    return kept, needed


def _write_back(
    folded: list[str],
    kept: list[onnx.NodeProto],
    used_names: Set[str],
    batch_made: Set[str],
    values: TensorValues,
    dependence: SizeDependence,
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Constants for the tensors `folded`, and nodes that compute those that depend on the batch size.

    `kept` are the other nodes: those of them that reshape may be edited.
    """
    other = dependence.next_batch
    if not dependence.batch_inputs or other is None:
        return [], [numpy_helper.from_array(values.value(name), name) for name in folded]
    batch_input = dependence.batch_inputs[0]
    batch_size = values.tensor_specs[batch_input][0][0]
    formula = SymbolicBatch(batch_input, batch_size, values.tensor_specs, used_names)
    reshapes = _reshapes_by_target(kept)
    computed: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    for name in folded:
        if name in batch_made:
            nodes, tensors = formula.write(name, values.value(name), other.value(name), reshapes.get(name, []))
            computed.extend(nodes)
            constants.extend(tensors)
        else:
            constants.append(numpy_helper.from_array(values.value(name), name))
    return [*formula.nodes, *computed], [*constants, *formula.constants]


def _replace_contents(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> None:
    """Give a graph these nodes and initializers; those initializers that it has already are not touched."""
    names = {tensor.name for tensor in constants}
    for i in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[i].name not in names:
            del graph.initializer[i]
    present = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in constants if tensor.name not in present)
    replace_all(graph.node, nodes)


def _depends_on_batch(name: str, values: TensorValues, other: TensorValues | None) -> bool:
    """Whether a tensor is another at the next batch size, `other`."""
    if other is None or not (values.has_value(name) and other.has_value(name)):
        return False
    if values.tensor_specs[name] != other.tensor_specs[name]:
        return True
    return not np.array_equal(values.value(name), other.value(name))


def _has_no_formula(name: str, values: TensorValues, other: TensorValues | None) -> bool:
    """Whether a tensor depends on the batch size in a way that no formula gives: its shape does, say."""
    specs = values.tensor_specs
    return other is None or specs[name] != other.tensor_specs[name] or specs[name][1].kind != "i"


def _reshapes_by_target(nodes: Iterable[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """The readers of each tensor that nothing reads but as the target to reshape to."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    others: set[str] = set()
    for node in nodes:
        if node.op_type == "Reshape" and len(node.input) > 1:
            readers.setdefault(node.input[1], []).append(node)
            others.add(node.input[0])
        else:
            others.update([*node.input, *captured(node)])
    return {name: reshaping for name, reshaping in readers.items() if name not in others}


def _stays(node: onnx.NodeProto, initializers: Tensors, specs: Specs, shape_made: Set[str]) -> bool:
    """Whether a node with constant inputs is kept: a view of a weight, or one whose result is far larger."""
    outputs = [name for name in node.output if name]
    if not shape_made.isdisjoint(outputs):
        return False
    source = initializers.get(node.input[0]) if node.input else None
    if node.op_type in KEPT_ON_WEIGHTS and source is not None and len(source.dims) > 1:
        return True
    if node.op_type == "ConstantOfShape":  # weights of files that were stripped of their values
        return False
    bytes_after = sum(spec_bytes(specs[name]) for name in outputs)
    bytes_before = sum(spec_bytes(specs[name]) for name in node.input if name)
    return bytes_after > bytes_before + LARGEST_GROWTH_BYTES
