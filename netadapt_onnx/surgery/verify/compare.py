"""How far apart two models are, tensor by tensor, on the same seeded inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx

from netadapt_onnx.common.progress import counting
from netadapt_onnx.graph.runtime import Arrays, random_inputs, run, session
from netadapt_onnx.graph.shapes import Specs
from netadapt_onnx.surgery.cut import Cut
from netadapt_onnx.surgery.verify.rounding import perturbed

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


class Comparison:
    """The masked reference and the pruned model side by side, with the same tensors exposed.

    What the quantisers `handed` put out is handed over from the reference: on a boundary, rounding alone changes a
    value by a whole level, and everything behind it. So each piece between quantisers is compared on the same inputs.
    """

    def __init__(
        self,
        reference: onnx.ModelProto,
        model: onnx.ModelProto,
        names: list[str],
        cut: Cut,
        specs: Specs,
        handed: frozenset[str] = frozenset(),
    ) -> None:
        self._reference = reference
        self._expected = session(reference, outputs=names, optimise=False)
        exposed = [_own(name) if name in handed else name for name in names]
        self._actual = session(_taking_over(model, handed), outputs=exposed, optimise=False)
        self._exposed = exposed
        self._handed = handed
        self._names = names
        self._cut = cut
        self._specs = specs

    def run(self, seeds: range, sampled: frozenset[str]) -> dict[str, Tally]:
        """Run both models on seeded inputs; returns a tally of each tensor.

        Args:
            seeds: The seeds of the inputs, a run for each.
            sampled: Tensors whose shapes depend on the data: runs in which these differ do not count.
        """
        tallies = {name: Tally() for name in self._names}
        for seed in counting("proving the cut", seeds):
            inputs = random_inputs(self._specs, seed)
            fed = {name: self.kept(name, value) for name, value in inputs.items()}  # --resize-io cuts inputs too
            references = run(self._expected, inputs, self._names)
            fed |= {name: self.kept(name, references[name]) for name in self._handed}
            results = run(self._actual, fed, self._exposed)
            for name, exposed in zip(self._names, self._exposed, strict=True):
                expected, actual = self.kept(name, references.pop(name)), results.pop(exposed)
                if name in self._handed and _on_boundaries(expected, actual):
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
        exposed = [_own(name) if name in self._handed else name for name in names]
        shaken = session(_taking_over(perturbed(self._reference), self._handed), outputs=exposed, optimise=False)
        for seed in counting("proving the cut", seeds):
            inputs = random_inputs(self._specs, seed)
            before = run(self._expected, inputs, list(dict.fromkeys([*names, *self._handed])))
            moved = _perturbed(inputs) | {name: before[name] for name in self._handed}
            after = run(shaken, moved, exposed)
            for name, other in zip(names, exposed, strict=True):
                a, b = self.kept(name, before[name]), self.kept(name, after[other])
                tallies[name].noise = max(tallies[name].noise, distance(a, b) if a.shape == b.shape else np.inf)

    def kept(self, name: str, array: np.ndarray) -> np.ndarray:
        """The positions of a tensor that a cut keeps."""
        for axis in range(array.ndim):
            mask = self._cut.kept(name, axis)
            if not mask.all():
                array = array.compress(mask, axis=axis)
        return array


def _own(name: str) -> str:
    """What a quantiser whose result is handed over puts out itself."""
    return f"{name}/own"


def _taking_over(model: onnx.ModelProto, handed: frozenset[str]) -> onnx.ModelProto:
    """A copy in which some tensors are inputs, and the nodes that produced them have outputs of other names."""
    if not handed:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
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
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    declared = next((a.i for a in node.attribute if a.name == "output_dtype" and a.i), onnx.TensorProto.UINT8)
    zero = node.input[2] if len(node.input) > 2 else ""
    return (
        int(types.get(zero, declared)) if node.op_type == "QuantizeLinear" and output == 0 else onnx.TensorProto.UINT8
    )


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
    apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
    return float(apart.max(initial=0.0))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0


def _perturbed(inputs: Arrays) -> Arrays:
    return {name: np.nextafter(x, np.inf, dtype=x.dtype) if x.dtype.kind == "f" else x for name, x in inputs.items()}
