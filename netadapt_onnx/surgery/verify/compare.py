"""How far apart two models are, tensor by tensor, on the same seeded inputs."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import InitVar, dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.common.progress import counting
from netadapt_onnx.graph.nodes import all_nodes, all_subgraphs
from netadapt_onnx.graph.runtime import Arrays, random_inputs, run, session
from netadapt_onnx.graph.shapes import Specs
from netadapt_onnx.graph.weightless import without_weights
from netadapt_onnx.surgery.cut import Cut

if TYPE_CHECKING:
    import onnxruntime

# What computes with weights so that its result moves as little as they do. Not here: what compares, rounds or counts,
# and what reads sizes, thresholds or scales of an image, of which a unit in the last place can change everything.
SMOOTH = {
    *("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "Gather", "FusedConv", "FusedGemm"),
    *("FusedMatMul", "LSTM", "GRU", "RNN", "PRelu", "Attention", "MultiHeadAttention", "EmbedLayerNormalization"),
    *("BatchNormalization", "InstanceNormalization", "GroupNormalization", "GroupNorm", "LayerNormalization"),
    *("RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "BiasGelu", "FastGelu", "BiasAdd"),
    *("SkipSimplifiedLayerNormalization", "RotaryEmbedding"),
}
# Likewise for vectors; a single number is as likely a size or a threshold.
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Sum", "Where"}
# Of constants these give constants: weights may be on their way.
PASSING = {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "DequantizeLinear", "Expand"}
# How many of their inputs, from the first, are weights and not shapes or positions.
LEADING = dict.fromkeys(PASSING, 1) | {"DequantizeLinear": 2, "Gather": 1}
SEED = 0


def perturbed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every float weight one unit in the last place larger or smaller, by chance; zeros stay."""
    names = _weights(proto.graph)
    rng = np.random.default_rng(SEED)
    copy = without_weights(proto)
    copy.graph.initializer.extend(_perturb(t, rng) if t.name in names else t for t in proto.graph.initializer)
    for name, tensor in _inner_constants(copy.graph):
        if name in names:
            tensor.CopyFrom(_perturb(tensor, rng))
    return copy


def _weights(graph: onnx.GraphProto) -> set[str]:
    """Constants that something smooth computes with, at any depth, and that nothing else reads."""
    constants = [*((t.name, t) for t in graph.initializer), *_inner_constants(graph)]
    sizes = {name: prod(tensor.dims) for name, tensor in constants}
    names: set[str] = set()
    others: set[str] = {value.name for each in (graph, *all_subgraphs(graph.node)) for value in each.output}
    for node in reversed([*all_nodes(graph.node)]):  # those that pass constants on come after those that read them
        result = node.output[0] if node.output else ""
        smooth = node.op_type in SMOOTH or (node.op_type in PASSING and result in names and result not in others)
        for slot, name in enumerate(node.input):
            vector = node.op_type in ARITHMETIC and sizes.get(name, 2) > 1
            leading = slot < LEADING.get(node.op_type, len(node.input))
            (names if (smooth and leading) or vector else others).add(name)
    return names - others


def _inner_constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """The initializers of subgraphs, and the tensors of Constant nodes by the names of their results."""
    for subgraph in all_subgraphs(graph.node):
        yield from ((tensor.name, tensor) for tensor in subgraph.initializer)
    for node in all_nodes(graph.node):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            yield node.output[0], node.attribute[0].t


def _perturb(tensor: onnx.TensorProto, rng: np.random.Generator) -> onnx.TensorProto:
    """The tensor with each value one unit in the last place off; itself if it holds no floats."""
    if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        return tensor
    values = numpy_helper.to_array(tensor)
    ends = np.where(rng.random(values.shape, np.float32) < 0.5, -np.inf, np.inf).astype(values.dtype)
    moved = np.where((values == 0) | ~np.isfinite(values), values, np.nextafter(values, ends))
    return numpy_helper.from_array(moved, tensor.name)


# A tensor whose values differ by less than this share of their size is compared on its size instead.
STILL = 1e-2
# At most this share of a quantiser's results may differ by a level: those whose inputs lie on the boundary of two. What
# it receives is compared as well, within a ten thousandth of its spread.
BOUNDARIES = 1e-2


@dataclass
class Tally:
    """Statistics of one tensor over all runs; differences are absolute, at the kept positions."""

    gap: float = 0.0
    noise: float = 0.0
    _sum: float = 0.0
    _squares: float = 0.0
    _count: int = 0
    _moved: float = 0.0
    _first: np.ndarray | None = field(default=None, repr=False)

    def add(self, expected: np.ndarray, actual: np.ndarray) -> None:
        """Compare one run: the reference's values with the pruned model's."""
        self.gap = max(self.gap, distance(expected, actual))
        finite = np.where(np.isfinite(expected), expected, 0)
        self._sum += float(finite.sum(dtype=np.float64))
        self._squares += float(np.square(finite, dtype=np.float64).sum())
        self._count += finite.size
        if self._first is None:
            self._first = finite
        elif self._first.shape == finite.shape:
            self._moved = max(self._moved, _rms(np.subtract(finite, self._first, dtype=np.float64)))
        else:
            self._moved = np.inf

    @property
    def size(self) -> float:
        """Root mean square."""
        return float(np.sqrt(self._squares / max(self._count, 1)))

    @property
    def movement(self) -> float:
        """How much of its size the tensor changes with the inputs."""
        return self._moved / self.size if self.size > 0 else 0.0

    def difference(self, bounded: bool) -> float:
        """The gap relative to the standard deviation; at least to 1% of the size, and to 1 for a bounded operator."""
        mean = self._sum / max(self._count, 1)
        spread = float(np.sqrt(max(self.size**2 - mean**2, 0.0)))
        scale = max(spread, STILL * self.size, 1.0 if bounded else 0.0)
        if self.gap == 0:
            return 0.0
        return self.gap / scale if scale > 0 else np.inf


@dataclass
class Comparison:
    """The masked reference and the pruned model side by side, with the same tensors exposed.

    What quantisers put out is handed over from the reference: on a boundary, rounding alone changes a value by a whole
    level, and everything behind it. So each piece between quantisers is compared on the same inputs.

    Attributes:
        reference: The masked reference.
        model: The pruned model.
        names: The tensors that are compared.
        cut: What was cut.
        specs: Shape and type of the reference's inputs.
        handed: The results of quantisers that are handed over.
    """

    reference: onnx.ModelProto
    model: InitVar[onnx.ModelProto]
    names: list[str]
    cut: Cut
    specs: Specs
    handed: frozenset[str]

    def __post_init__(self, model: onnx.ModelProto) -> None:
        self._expected = session(self.reference, outputs=self.names, optimise=False)
        self._actual, self._exposed = self._opened(model, self.names)

    def _opened(self, model: onnx.ModelProto, names: list[str]) -> tuple[onnxruntime.InferenceSession, list[str]]:
        """A model that takes over what is handed over, and what it calls the tensors `names` that it computes."""
        exposed = [_own(name) if name in self.handed else name for name in names]
        return session(_taking_over(model, self.handed), outputs=exposed, optimise=False), exposed

    def run(self, seeds: range, sampled: frozenset[str]) -> dict[str, Tally]:
        """Run both models on seeded inputs; returns a tally of each tensor.

        Args:
            seeds: The seeds of the inputs, a run for each.
            sampled: Tensors whose shapes depend on the data: runs in which these differ do not count.
        """
        tallies = {name: Tally() for name in self.names}
        for seed in counting("proving the cut", seeds):
            inputs = random_inputs(self.specs, seed)
            fed = {name: self.kept(name, value) for name, value in inputs.items()}  # --resize-io cuts inputs too
            references = run(self._expected, inputs, self.names)
            fed |= {name: self.kept(name, references[name]) for name in self.handed}
            results = run(self._actual, fed, self._exposed)
            for name, exposed in zip(self.names, self._exposed, strict=True):
                expected, actual = self.kept(name, references.pop(name)), results.pop(exposed)
                if name in self.handed and _on_boundaries(expected, actual):
                    actual = expected
                if expected.shape == actual.shape:
                    tallies[name].add(expected, actual)
                elif name not in sampled:
                    tallies[name].gap = np.inf
        return tallies

    def add_noise(self, tallies: dict[str, Tally], seeds: range) -> None:
        """Measure what rounding alone does: the reference with inputs and weights one unit in the last place off.

        What quantisers put out is handed over here as well.
        """
        names = list(tallies)
        shaken, exposed = self._opened(perturbed(self.reference), names)
        for seed in counting("proving the cut", seeds):
            inputs = random_inputs(self.specs, seed)
            before = run(self._expected, inputs, list(dict.fromkeys([*names, *self.handed])))
            moved = _perturbed(inputs) | {name: before[name] for name in self.handed}
            after = run(shaken, moved, exposed)
            for name, other in zip(names, exposed, strict=True):
                a, b = self.kept(name, before[name]), self.kept(name, after[other])
                tallies[name].noise = max(tallies[name].noise, distance(a, b) if a.shape == b.shape else np.inf)

    def kept(self, name: str, array: np.ndarray) -> np.ndarray:
        """The positions of a tensor that a cut keeps."""
        for axis, mask in self.cut.shortened_axes(name):
            array = array.compress(mask, axis=axis)
        return array


def _own(name: str) -> str:
    """What a quantiser whose result is handed over puts out itself."""
    return f"{name}/own"


def _taking_over(model: onnx.ModelProto, handed: frozenset[str]) -> onnx.ModelProto:
    """A copy in which some tensors are inputs, and the nodes that produced them have outputs of other names."""
    if not handed:
        return model
    copy = deepcopy(model)
    for node in copy.graph.node:
        for i, name in enumerate(node.output):
            if name in handed:
                code = _quantised_type(node, i, copy.graph)
                copy.graph.input.append(onnx.ValueInfoProto(name=name, type=onnx.TypeProto()))
                copy.graph.input[-1].type.tensor_type.elem_type = code
                node.output[i] = _own(name)
    return copy


def _quantised_type(node: onnx.NodeProto, output: int, graph: onnx.GraphProto) -> int:
    """The type of a quantiser's result: that of its zero point, or what an attribute says, or bytes."""
    if node.op_type != "QuantizeLinear" or output > 0:
        return onnx.TensorProto.UINT8
    declared = next((a.i for a in node.attribute if a.name == "output_dtype" and a.i), onnx.TensorProto.UINT8)
    return next((t.data_type for t in graph.initializer if t.name in node.input[2:]), declared)


def _on_boundaries(expected: np.ndarray, actual: np.ndarray) -> bool:
    """Whether two quantised tensors differ by one level at few positions, as rounding makes them."""
    if expected.shape != actual.shape:
        return False
    apart = np.abs(expected.astype(np.int64) - actual.astype(np.int64))
    return bool(apart.max(initial=0) <= 1 and np.count_nonzero(apart) <= BOUNDARIES * apart.size)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference; NaN against a number is infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(np.subtract(a, b, dtype=np.float64))
    if np.isfinite(apart).all():
        return float(apart.max(initial=0.0))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart)).max(initial=0.0))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0


def _perturbed(inputs: Arrays) -> Arrays:
    return {name: np.nextafter(x, np.inf, dtype=x.dtype) if x.dtype.kind == "f" else x for name, x in inputs.items()}
