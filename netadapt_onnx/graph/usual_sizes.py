"""Sizes to try for axes that a file leaves open: by their names, by where they stand, and by what weights want."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import product
from math import isqrt, prod

import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.nodes import attribute

LENGTHS = (16, 128, 512, 100, 400, 1000, 3000, 16000)
SIDES = (224, 256, 32, 28, 64, 96, 112, 128, 160, 192, 240, 299, 300, 320, 384, 416, 448, 512, 640)
CHANNELS = (3, 1, 4)
# What a network makes of its input before it is flattened: so many halvings.
STRIDES = (1, 2, 4, 8, 16, 32)
# Every trial evaluates the model's shapes once.
TRIALS = 40

_NAMES = {
    "batch": r"b|bs|.*batch.*",
    "side": r"h|w|.*height.*|.*width.*|.*rows?|.*cols?|.*columns?|.*(_|\b)[hw]",
    "channels": r"c|ch|.*channels?",
    "length": r"l|s|t|.*(seq|len|time|frame|token|step|sample|past|points?).*",
}
_ELEMENTWISE = {"Cast", "Relu", "Sigmoid", "Tanh", "Clip", "Add", "Sub", "Mul", "Div"}
_SAME_SHAPE = _ELEMENTWISE | {"QuantizeLinear", "DequantizeLinear"}

Dims = tuple[int | str, ...]


def kind_of_axis(dims: Dims, axis: int) -> str:
    """`batch`, `side` of an image, `channels`, `length`; behind a fixed first axis `state` (a batch) or `either`."""
    name = str(dims[axis]).lower()
    for kind, pattern in _NAMES.items():
        if re.fullmatch(pattern, name):
            return kind
    if axis == 0:
        return "batch"
    if len(dims) == 3 and isinstance(dims[0], int) and axis == 1:
        return "either" if dims[0] == 1 else "state"
    if len(dims) < 4:
        return "length"
    last = len(dims) - 1
    if [k for k, size in enumerate(dims) if not isinstance(size, int) and k > 0] in ([2], [last]):
        return "length"  # of a cache (batch, heads, length, size), of a spectrogram (batch, 1, mels, frames)
    return "channels" if axis == 1 and dims[last] not in CHANNELS else "side"


def trials(kinds: Sequence[str], graph: onnx.GraphProto, batch_size: int) -> Iterator[dict[str, int]]:
    """Sizes by kind of axis, the likeliest first."""
    sides, lengths = _settled(graph)
    sizes = {
        "batch": [batch_size],
        "side": list(dict.fromkeys([*SIDES, *sides])),
        "channels": list(CHANNELS),
        "length": list(dict.fromkeys([*LENGTHS, *lengths])),
        "state": [batch_size, *LENGTHS],
        "either": [*LENGTHS[:2], batch_size, *LENGTHS[2:]],
    }
    names = [kind for kind in sizes if kind in kinds]
    # Nothing behind a kind's first `TRIALS` sizes can be among the likeliest, and a file may ask for thousands.
    places = product(*(range(min(len(sizes[kind]), TRIALS)) for kind in names))
    for indices in nsmallest(TRIALS, places, key=sum):
        yield {kind: sizes[kind][i] for kind, i in zip(names, indices, strict=True)}


def _settled(graph: onnx.GraphProto) -> tuple[list[int], list[int]]:
    """Sides and lengths of inputs that fixed numbers of the graph ask for.

    These are what a matrix reads of flattened channels, what a Reshape asks for, and positions that are added.
    """
    tensors = {t.name: t for t in graph.initializer}
    channels: set[int] = {1}
    counts: set[int] = set()
    positions: set[int] = set()
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name not in tensors or tensors[name].data_location == onnx.TensorProto.EXTERNAL:
                continue
            dims = tuple(tensors[name].dims)
            if node.op_type == "Conv" and slot == 1:
                channels.add(dims[0])
            elif node.op_type in ("Gemm", "MatMul") and slot == 1 and len(dims) == 2:
                counts.add(dims[1 if attribute(node, "transB") else 0])
            elif node.op_type == "Reshape" and slot == 1:
                target = [int(n) for n in numpy_helper.to_array(tensors[name]).reshape(-1) if n > 1]
                counts |= {*target, prod(target)}
            elif node.op_type == "Add" and len(dims) > 1:
                positions |= {dims[-2], dims[-2] - 1}  # a token of the class may stand in front of them
    areas = {count // channel for count in counts for channel in channels if count % channel == 0} | positions
    areas = {area for area in areas if area > 1}
    sides = sorted({isqrt(area) * stride for area in areas if isqrt(area) ** 2 == area for stride in STRIDES})
    return sides, sorted({area * stride for area in areas for stride in STRIDES})


@dataclass(frozen=True)
class Readers:
    """The nodes that read each tensor of a graph, with the first slot that does; and the shapes of its weights."""

    nodes: Mapping[str, Sequence[tuple[onnx.NodeProto, int]]]
    weights: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Readers:
        """Those of a graph, found in one walk."""
        nodes: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in graph.node:
            first_slots = {name: slot for slot, name in reversed([*enumerate(node.input)])}
            for name, slot in first_slots.items():
                nodes.setdefault(name, []).append((node, slot))
        return cls(nodes, {t.name: tuple(t.dims) for t in graph.initializer})


def sizes_by_readers(readers: Readers, name: str) -> tuple[int | None, Mapping[int, int]]:
    """The rank of a tensor (None where nothing determines it) and sizes of its axes, from the weights that meet it."""
    constants = readers.weights
    rank: int | None = None
    sizes: dict[int, int] = {}
    pending, seen = [name], {name}
    while pending:
        current = pending.pop()
        for node, slot in readers.nodes.get(current, ()):
            if node.op_type in _SAME_SHAPE and all(n in constants for n in node.input if n != current):
                pending += [n for n in node.output if n not in seen]
                seen.update(node.output)
            more = _sizes_by_reader(node, slot, constants)
            rank = more[0] if rank is None else rank
            sizes = {**more[1], **sizes}
    return rank, sizes


def _sizes_by_reader(
    node: onnx.NodeProto, slot: int, constants: Mapping[str, tuple[int, ...]]
) -> tuple[int | None, dict[int, int]]:
    weights = [constants.get(name, ()) for name in node.input]
    first = weights[1] if len(weights) > 1 else ()
    if node.op_type in ("LSTM", "GRU", "RNN") and len(first) == 3 and slot in (0, 5, 6):
        hidden = prod(weights[2][-1:]) if len(weights) > 2 else 1
        return 3, {2: first[2]} if slot == 0 else {0: first[0], 2: hidden}
    if not first or slot != 0:
        return None, {}
    match node.op_type:
        case "Conv":
            return len(first), {1: first[1] * attribute(node, "group", 1)}
        case "ConvTranspose":
            return len(first), {1: first[0]}
        case "Gemm" if len(first) == 2:
            return 2, {0 if attribute(node, "transA") else 1: first[1 if attribute(node, "transB") else 0]}
        case "MatMul" if len(first) > 1:
            return None, {-1: first[-2]}
        case "BatchNormalization":
            return None, {1: first[0]}
        case "LayerNormalization":
            return None, {-1: first[-1]}
    return None, {}
