"""What a model costs, counted and not measured: multiply-accumulates, parameters, file bytes, peak activation bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from netadapt_onnx.common.resources import Resources, amounts
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import all_subgraphs, attribute, node_name, reads
from netadapt_onnx.graph.shapes import Shape, Shapes, element_bits
from netadapt_onnx.graph.weightless import file_bytes


@dataclass(frozen=True)
class LayerCost:
    """One node that owns `weights` or multiplies; a weight that several nodes share counts at the first of them."""

    name: str
    op: str
    params: int
    macs: int
    output_shape: Shape
    weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cost:
    """`size_bytes` is the file's, `memory_bytes` the peak of simultaneously live activations."""

    params: int
    macs: int
    size_bytes: int
    memory_bytes: int
    layers: tuple[LayerCost, ...]

    @property
    def resources(self) -> dict[str, int]:
        """The four totals by resource name."""
        return amounts(self)

    def to_resources(self, size_bytes: int, latency_ms: float | None = None) -> Resources:
        """The totals as results show them, with the size of the file itself."""
        return Resources(self.params, self.macs, size_bytes, self.memory_bytes, latency_ms)


def cost(proto: onnx.ModelProto, shapes: Shapes) -> Cost:
    """Count what a model costs.

    For many widths of one model, keep a `CostModel`.

    Args:
        proto: the model.
        shapes: those of all its tensors, initializers included; they may be narrower than in the file.

    Raises:
        NetadaptError: for a tensor without a shape.
    """
    return CostModel(proto)(shapes)


@contextmanager
def _naming_unknown() -> Iterator[None]:
    """Errors within say which tensor has no shape."""
    try:
        yield
    except KeyError as error:
        raise NetadaptError(f"tensor {error} has no known shape", code="unknown-shape") from error


class CostModel:
    """A model read once so that any number of widths of it can be counted, some microseconds a node."""

    def __init__(self, proto: onnx.ModelProto, elsewhere: Mapping[str, onnx.TensorProto] | None = None) -> None:
        """Read a model; `elsewhere` are the weights that have stand-ins in it (`weightless.py`)."""
        graph = proto.graph
        self._file_bytes = file_bytes(proto, elsewhere)
        self._initializers = {t.name: (tuple(t.dims), _bits(t.data_type)) for t in graph.initializer}
        weights = _weights(graph)
        self._nodes = [(node, _MACS.get(node.op_type), weights.get(i, ())) for i, node in enumerate(graph.node)]
        # Parameters inside the bodies of loops and branches, which belong to no layer.
        inner = [(body, set().union(*_weights(body).values())) for body in all_subgraphs(graph.node)]
        self.inner_params = sum(prod(t.dims) for body, owned in inner for t in body.initializer if t.name in owned)
        self._alive = _Liveness(proto)

    @_naming_unknown()
    def __call__(self, shapes: Shapes) -> Cost:
        """Cost at these shapes. Raises NetadaptError for a tensor without a shape."""
        layers = self.layers(shapes)
        size = self._file_bytes + sum(
            _bytes(prod(shapes[name]), bits) - _bytes(prod(dims), bits)
            for name, (dims, bits) in self._initializers.items()
        )
        params = sum(layer.params for layer in layers) + self.inner_params
        return Cost(params, sum(layer.macs for layer in layers), size, self.memory_bytes(shapes), layers)

    @_naming_unknown()
    def layers(self, shapes: Shapes, *, macs: bool = True) -> tuple[LayerCost, ...]:
        """What each layer costs. Without `macs` only the constants need a shape, and only their owners are listed."""
        costs = []
        for node, count, weights in self._nodes:
            params = sum(prod(shapes[name]) for name in weights)
            multiplied = count(node, shapes) if count and macs else 0
            if params or multiplied:
                shape = tuple(shapes.get(node.output[0], ()))
                costs.append(LayerCost(node_name(node), node.op_type, params, multiplied, shape, weights))
        return tuple(costs)

    @_naming_unknown()
    def memory_bytes(self, shapes: Shapes) -> int:
        """The peak of simultaneously live activations. Raises NetadaptError for an activation without a shape."""
        return self._alive.peak_bytes(shapes)


class _Liveness:
    """When each activation is born and last used, in the file's node order. Nothing is done in place."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        graph = proto.graph
        bits = _activation_bits(proto)
        constants = {t.name for t in graph.initializer}
        last = {v.name: -1 for v in graph.input}
        for i, node in enumerate(graph.node):
            last |= dict.fromkeys([name for name in reads(node) if name not in constants], i)
            for name in filter(None, node.output):
                last.setdefault(name, i)
        dying: list[list[tuple[str, int]]] = [[] for _ in graph.node]
        for name in last.keys() - {v.name for v in graph.output}:
            if last[name] >= 0:
                dying[last[name]].append((name, bits.get(name, 32)))
        self._inputs = [(v.name, bits[v.name]) for v in graph.input]
        born = [[(name, bits[name]) for name in node.output if name] for node in graph.node]
        self._steps = list(zip(born, dying, strict=True))

    def peak_bytes(self, shapes: Shapes) -> int:
        peak = live = sum(_bytes(prod(shapes[name]), bits) for name, bits in self._inputs)
        for born, dying in self._steps:
            live += sum(_bytes(prod(shapes[name]), bits) for name, bits in born if name in shapes)
            peak = max(peak, live)
            live -= sum(_bytes(prod(shapes[name]), bits) for name, bits in dying if name in shapes)
        return peak


# --- parameters -----------------------------------------------------------------------------------------------------

# Inputs that hold weights whatever their size, a single scalar included.
_WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(["Conv", "ConvTranspose"], (1, 2)),
    "DeformConv": (1, 3),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    **dict.fromkeys(["BatchNormalization", "InstanceNormalization"], (1, 2)),
    **dict.fromkeys(["LayerNormalization", "GroupNormalization"], (1, 2)),
    **dict.fromkeys(["RMSNormalization", "SimplifiedLayerNormalization"], (1,)),
    "SkipLayerNormalization": (2, 3, 4),
    **dict.fromkeys(["LSTM", "DynamicQuantizeLSTM"], (1, 2, 3, 7)),
    **dict.fromkeys(["GRU", "RNN"], (1, 2, 3)),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "QGemm": (3, 6),
    "DynamicQuantizeMatMul": (1, 4),
    "MatMulIntegerToFloat": (1, 6),
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "DequantizeLinear": (0,),
    "MatMulNBits": (1,),
    "QAttention": (1, 2),
}
# Of these, only the inputs above; of every other op, any floating-point constant of more than one element.
_NOTHING_ELSE = frozenset(_WEIGHT_INPUTS) | {
    "Clip", "Compress", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod",
    "NonMaxSuppression", "OneHot", "Pad", "QuantizeLinear", "Range", "Resize", "RoiAlign", "Upsample", "Where",
}  # fmt: skip
_QONNX = frozenset({"Quant", "BipolarQuant", "Trunc", "IntQuant", "FloatQuant"})  # input 0 is data, the rest is scale
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Concat", "Pow"})
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


def _weights(graph: onnx.GraphProto) -> dict[int, tuple[str, ...]]:
    """Initializers that are parameters, under the index of the first node that reads each."""
    tensors = {t.name: t for t in graph.initializer}
    weights_by_node: dict[int, tuple[str, ...]] = {}
    seen: set[str] = set()
    for i, node in enumerate(graph.node):
        new = [(slot, name) for slot, name in enumerate(node.input) if name in tensors and name not in seen]
        names = dict.fromkeys(name for slot, name in new if _is_weight(node.op_type, slot, tensors[name]))
        if names:
            weights_by_node[i] = tuple(names)
            seen.update(names)
    return weights_by_node


def _is_weight(op: str, position: int, tensor: TensorProto) -> bool:
    if op in _WEIGHT_INPUTS:
        return position in _WEIGHT_INPUTS[op]
    if tensor.data_type not in _FLOATS or prod(tensor.dims) <= 1 or op in _NOTHING_ELSE:
        return False
    if op in _QONNX:
        return position == 0
    return op not in _ELEMENTWISE or not _is_grid(tensor)


def _is_grid(tensor: TensorProto) -> bool:
    """Detectors add coordinate grids and multiply by strides: several axes, all whole or half numbers."""
    if sum(d > 1 for d in tensor.dims) < 2:
        return False
    if tensor.data_location == TensorProto.EXTERNAL:  # values that are not loaded are weights
        return False
    doubled = 2 * numpy_helper.to_array(tensor).astype(np.float64)
    return bool(np.all(doubled == np.rint(doubled)))


# --- multiply-accumulates -------------------------------------------------------------------------------------------


def _conv(node: onnx.NodeProto, shapes: Shapes, weight: int = 1) -> int:
    # From the weight's own shape and not the `group` attribute, which is the uncut model's.
    return prod(shapes[node.output[0]]) * prod(shapes[node.input[weight]][1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    a = shapes[node.input[0]]
    return prod(shapes[node.output[0]]) * (a[-2] if attribute(node, "transA") else a[-1])


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    steps = prod(shapes[node.input[0]][:2])  # sequence x batch, in either layout
    return steps * (prod(shapes[node.input[1]]) + prod(shapes[node.input[2]]))  # gates and directions are in W and R


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Q K^T and (softmax) V, over past and present keys; com.microsoft's also projects its input to Q, K and V."""
    query, output = shapes[node.input[0]], shapes[node.output[0]]
    if node.domain == "com.microsoft" and node.op_type in {"Attention", "QAttention"}:
        weight = shapes[node.input[1]]
        return prod(query[:2]) * prod(weight) + 2 * prod(output) * query[1]
    if len(node.input) < 2 or not node.input[1]:  # packed: (batch, sequence, heads, 3, size)
        return 2 * prod(output) * query[1]
    length = shapes[node.input[1]][-2]
    if node.domain != "com.microsoft" and len(node.input) > 4 and node.input[4]:
        length += shapes[node.input[4]][-2]
    return (prod(query) + prod(output)) * length


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Every distinct index once: the size of the loop nest, right for one or two operands."""
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    terms = equation.split("->")[0].split(",")
    sizes: dict[str, int] = {}
    free = 1
    for term, name in zip(terms, node.input, strict=True):
        shape = shapes[name]
        head, dots, tail = term.partition("...")
        free = max(free, prod(shape[len(head) : len(shape) - len(tail)]) if dots else 1)
        sizes.update(zip(head, shape, strict=False))
        sizes.update(zip(reversed(tail), reversed(shape), strict=False))
    return prod(sizes.values()) * free if len(terms) > 1 else 0


def _matmul_bits(node: onnx.NodeProto, shapes: Shapes) -> int:
    return prod(shapes[node.input[0]]) * shapes[node.output[0]][-1]


_MACS: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    **dict.fromkeys(["Conv", "FusedConv", "ConvInteger", "DeformConv"], _conv),
    "QLinearConv": lambda node, shapes: _conv(node, shapes, weight=3),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(["Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "MatMulInteger"], _matmul),
    **dict.fromkeys(["MatMulIntegerToFloat", "QLinearMatMul", "DynamicQuantizeMatMul"], _matmul),
    "MatMulNBits": _matmul_bits,
    "Einsum": _einsum,
    **dict.fromkeys(["LSTM", "DynamicQuantizeLSTM", "GRU", "RNN"], _recurrent),
    **dict.fromkeys(["Attention", "MultiHeadAttention", "QAttention"], _attention),
}


# --- bytes ----------------------------------------------------------------------------------------------------------


def _bits(data_type: int) -> int:
    # Sequences and the like have no data type; they have no shape either.
    return 32 if data_type == TensorProto.UNDEFINED else element_bits(data_type)


def _bytes(elements: int, bits: int) -> int:
    return -(-elements * bits // 8)


_BOOLEAN = frozenset(
    {"And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor"}
)
_INDEX = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "Shape", "Size"})
_TYPE_FROM_INPUT = {"CastLike": 1, "DequantizeLinear": 1, "OneHot": 2, "QuantizeLinear": 2, "Where": 1}


def _activation_bits(proto: onnx.ModelProto) -> dict[str, int]:
    """Bits per element of every tensor, by the few rules that matter; an op not listed keeps its first input's type."""
    bits = {v.name: _bits(v.type.tensor_type.elem_type) for v in proto.graph.input}
    bits |= {t.name: _bits(t.data_type) for t in proto.graph.initializer}
    for node in proto.graph.node:
        for position, name in enumerate(node.output):
            bits[name] = _output_bits(node, position, bits)
    return bits


def _output_bits(node: onnx.NodeProto, position: int, bits: Mapping[str, int]) -> int:
    op = node.op_type
    if (op == "Dropout" and position == 1) or op in _BOOLEAN:
        return 8
    if op in _INDEX or (position == 1 and op in {"MaxPool", "TopK"}):
        return 64
    if op in {"ConvInteger", "MatMulInteger"}:
        return 32
    declared = int(attribute(node, "to" if op == "Cast" else "output_dtype", 0))
    if declared:
        return _bits(declared)
    source = _TYPE_FROM_INPUT.get(op, 0)
    if source < len(node.input):
        return bits.get(node.input[source], 32)
    return 8 if op == "QuantizeLinear" else 32
