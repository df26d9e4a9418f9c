"""Fits the cost of layers to the times of whole models alone, where a provider shows no times of nodes.

Compiling providers run a whole subgraph as one node. Each measured model then gives one equation, which says less of
single layers than cells do. So the fit has two levels: first a price per multiplication for each class of layers and
one per element moved, common to all; then every kind of layer departs from those, the less the less the models say of
it (ridge regression towards the first level). How far is chosen by leaving models out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import CostModel
from netadapt_onnx.graph.nodes import node_name
from netadapt_onnx.profilers.statistics import huber_weights
from netadapt_onnx.profilers.table.arrays import Floats, Ints
from netadapt_onnx.profilers.table.file import Cell, EndToEndTime, Shapes
from netadapt_onnx.profilers.table.nonnegative_fit import REFERENCE_WEIGHT, nonnegative, robust_nonnegative
from netadapt_onnx.profilers.table.staircase import Staircase
from netadapt_onnx.profilers.units import Layers, attributes

# By tensor: which of its axes are widths, that is, differ between models.
Axes = Mapping[str, tuple[int, ...]]
BLOCKS, ALIGNMENTS = (1, 4, 8, 16, 32), (1, 4, 8)
# How freely kinds may depart from the common prices, from hardly at all to nearly as the data say.
STIFFNESS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
# The spread of a model's time between fresh sessions: what departures are weighed against.
NOISE = 0.02
# Models that are far off count by their distance, not its square (Huber 1964): so often are they weighed anew.
ROUNDS = 5
# Fewer equations cannot even hold the common prices.
FEWEST = 8
# What departures are measured against: the first level's share of the uncut model's time, but at least this.
LEAST_SHARE = 0.002


class LayerTerms:
    """Counts what each layer of a model multiplies and moves; layers of one `kind` differ in nothing but widths.

    `names`, `classes` and `kinds` are the layers' names and the numbers of their classes and kinds, in one order.
    """

    def __init__(self, proto: onnx.ModelProto, example: Shapes, axes: Axes) -> None:
        self._cost = CostModel(proto)
        self._axes = axes
        nodes = [node for node in proto.graph.node if all(name in example for name in _inputs(node) + _outputs(node))]
        self.names = [node_name(node) for node in nodes]
        self._tensors = [(_inputs(node), _outputs(node)) for node in nodes]
        self._index = {name: i for i, name in enumerate(self.names)}
        classes, kinds = [], []
        for node, (_, outputs) in zip(nodes, self._tensors, strict=True):
            grouped = "grouped" if any(a.name == "group" and a.i > 1 for a in node.attribute) else ""
            fixed = [
                tuple(None if axis in axes.get(name, ()) else d for axis, d in enumerate(example[name]))
                for name in outputs
            ]
            classes.append(f"{node.op_type} {attributes(node).get('kernel_shape', '')} {grouped}")
            kinds.append(repr((node.op_type, grouped, sorted(attributes(node).items()), fixed)))
        self.classes, self.kinds = _numbers(classes), _numbers(kinds)

    def __call__(self, shapes: Shapes, staircase: Staircase) -> Floats:
        """(layers, 4): multiplications, elements of operands and of results, and multiplications off the alignment."""
        raised = {name: self._raised(name, shape, staircase.block) for name, shape in shapes.items()}
        terms = np.zeros((len(self.names), 4))
        for layer in self._cost.layers(raised):
            if layer.name in self._index:
                terms[self._index[layer.name], 0] = layer.macs
        for i, (inputs, outputs) in enumerate(self._tensors):
            terms[i, 1:3] = sum(prod(raised[t]) for t in inputs), sum(prod(raised[t]) for t in outputs)
            widths = [shapes[t][axis] for t in (*inputs, *outputs) for axis in self._axes.get(t, ())]
            terms[i, 3] = terms[i, 0] * any(width % staircase.alignment for width in widths)
        return terms

    def _raised(self, name: str, shape: tuple[int, ...], block: int) -> tuple[int, ...]:
        """A tensor's shape with its widths raised to whole blocks."""
        axes = self._axes.get(name, ())
        return tuple(-(-d // block) * block if i in axes else d for i, d in enumerate(shape))


def _inputs(node: onnx.NodeProto) -> list[str]:
    return list(dict.fromkeys(name for name in node.input if name))


def _outputs(node: onnx.NodeProto) -> list[str]:
    return [name for name in node.output if name]


def _numbers(keys: Sequence[str]) -> Ints:
    """(n,) a number for each key, equal for equal keys, in the order in which they occur first."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


@dataclass(frozen=True)
class WholeModelFit:
    """Predicts times relative to the uncut model's.

    Attributes:
        terms: counts what the layers of a model multiply and move.
        staircase: the block and alignment that explain the times best.
        prices: (layers, 4) the price of each of those counts, as a share of the uncut model's time.
        constant: what every model costs besides.
        error: the mean relative error of models that were left out.
        covariance: that of prices by kind, in units of the models' noise.
        noise: so much of it 95% of the left-out models are off.
        uncut_us: the uncut model's time in microseconds.
    """

    terms: LayerTerms
    staircase: Staircase
    prices: Floats
    constant: float
    error: float
    covariance: Floats
    noise: float
    uncut_us: float

    def predict_ratio(self, shapes: Shapes) -> float:
        """Predicted time relative to the uncut model's."""
        return self.constant + float((self.terms(shapes, self.staircase) * self.prices).sum())

    def predict_error(self, shapes: Shapes) -> float:
        """The relative error that 95% of such predictions stay within, as models left out of the fit suggest.

        It grows where the measured models say little of these shapes.
        """
        own = _Levels(self.terms, self.terms(shapes, self.staircase)[None]).own[0]
        row = own / max(1e-9, self.predict_ratio(shapes))
        return self.noise * float(np.sqrt(1 + row @ self.covariance @ row))

    def predict_units(self, shapes: Shapes) -> dict[str, float]:
        """The microseconds of the uncut model's time that the fit gives to every layer, by its name."""
        shares = (self.terms(shapes, self.staircase) * self.prices).sum(1)
        return dict(zip(self.terms.names, (shares * self.uncut_us).tolist(), strict=True))


def fit_whole_model(
    proto: onnx.ModelProto, shapes: Sequence[Shapes], ratios: Floats, uncut: int | None, uncut_ms: float
) -> WholeModelFit:
    """Fit the prices of layers to the times of whole models.

    Args:
        proto: the uncut model.
        shapes: of each of n measured models, the shapes of all tensors.
        ratios: (n,) its time relative to the uncut model's.
        uncut: the index of the uncut model among them, if it is.
        uncut_ms: the uncut model's time.

    Raises:
        NetadaptError: the models are too few.
    """
    if len(shapes) < FEWEST:
        raise NetadaptError(
            f"{len(shapes)} measured versions are too few to fit {proto.graph.name or 'the model'} to",
            hint="raise the time cap",
            code="table",
        )
    terms = LayerTerms(proto, shapes[0], _varying_axes(shapes))
    weight = np.array([REFERENCE_WEIGHT if i == uncut else 1.0 for i in range(len(shapes))]) / ratios
    candidates = []
    for staircase in (Staircase(block, alignment) for block in BLOCKS for alignment in ALIGNMENTS):
        level = _Levels(terms, np.array([terms(one, staircase) for one in shapes]))
        candidates.append((level.cross_validate(ratios, weight), staircase, level))
    (error, stiffness), staircase, level = min(candidates, key=lambda candidate: candidate[0][0])
    trust: Floats = np.ones_like(ratios)
    for _ in range(ROUNDS):
        prices, constant = level.prices(ratios, weight * np.sqrt(trust), stiffness)
        trust = huber_weights(np.abs((level.terms * prices).sum((1, 2)) + constant - ratios) / ratios)
    uncertainty = level.uncertainty(ratios, weight, stiffness)
    return WholeModelFit(terms, staircase, prices, constant, error, *uncertainty, uncut_ms * 1e3)


@dataclass(frozen=True)
class _Levels:
    """The two levels' equations. `terms`: (models, layers, 4)."""

    layers: LayerTerms
    terms: Floats

    @cached_property
    def common(self) -> Floats:
        """(models, columns): multiplications by class, operands, results, off the alignment, one."""
        macs = _sum_by_number(self.terms[:, :, :1], self.layers.classes)
        rest = self.terms[:, :, 1:].sum(1)
        return np.concatenate([macs, rest, np.ones((len(rest), 1))], 1)

    @cached_property
    def own(self) -> Floats:
        """(models, columns): multiplications, operands and results by kind, off the alignment, one."""
        return np.concatenate([_sum_by_number(self.terms[:, :, :3], self.layers.kinds), self.common[:, -2:]], 1)

    def prior(self, ratios: Floats, weight: Floats) -> Floats:
        """The first level's prices for the columns of the second."""
        prices = robust_nonnegative(self.common, ratios, weight * ratios)
        classes = int(self.layers.classes.max()) + 1
        kinds = int(self.layers.kinds.max()) + 1
        by_kind = np.zeros((kinds, 3))
        by_kind[self.layers.kinds, 0] = prices[:classes][self.layers.classes]
        by_kind[:, 1:] = prices[classes : classes + 2]
        return np.concatenate([by_kind.ravel(), prices[-2:]])

    def _system(self, ratios: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
        """Rows, what the prior leaves of them, and how far each price is likely to depart from it."""
        prior = self.prior(ratios, weight)
        size = np.maximum(self.own.mean(0), 1e-30)
        likely = np.maximum(prior * size, LEAST_SHARE) / size
        return self.own * weight[:, None], (ratios - self.own @ prior) * weight, likely

    def cross_validate(self, ratios: Floats, weight: Floats) -> tuple[float, float]:
        """The mean error of models predicted without themselves, and the stiffness with the least."""
        rows, rest, likely = self._system(ratios, weight)
        gram = (rows * likely) @ (rows * likely).T
        candidates = []
        for stiffness in STIFFNESS:
            hat = gram @ np.linalg.inv(gram + stiffness * NOISE**2 * np.eye(len(rest)))
            errors = (rest - hat @ rest) / np.maximum(1e-3, 1 - np.diag(hat))
            candidates.append((float(np.abs(errors).mean()), stiffness))
        return min(candidates)

    def uncertainty(self, ratios: Floats, weight: Floats, stiffness: float) -> tuple[Floats, float]:
        """The covariance of prices by kind in units of noise, and how many of these 95% of left-out models are off.

        That of ridge regression as a Gaussian prior (Hoerl and Kennard 1970); the noise is what left-out models show.
        """
        rows, rest, likely = self._system(ratios, weight)
        scaled = rows * likely
        within = np.linalg.inv(scaled.T @ scaled + stiffness * NOISE**2 * np.eye(len(likely)))
        hat = np.einsum("ij,jk,ik->i", scaled, within, scaled)
        errors = (rest - scaled @ (within @ (scaled.T @ rest))) / np.maximum(1e-3, 1 - hat)
        likeliest = np.sqrt(1 + hat / np.maximum(1e-3, 1 - hat))
        return within * np.outer(likely, likely), float(np.quantile(np.abs(errors) / likeliest, 0.95))

    def prices(self, ratios: Floats, weight: Floats, stiffness: float) -> tuple[Floats, float]:
        """Prices (layers, 4) and the constant: all at least 0."""
        rows, _, likely = self._system(ratios, weight)
        prior = self.prior(ratios, weight)
        stiff = np.sqrt(stiffness) * NOISE
        a = np.concatenate([rows * likely, stiff * np.eye(len(likely))])
        y = np.concatenate([ratios * weight, stiff * prior / likely])
        prices = nonnegative(a, y) * likely
        own = prices[:-2].reshape(-1, 3)[self.layers.kinds]
        return np.concatenate([own, np.full((len(own), 1), prices[-2])], 1), float(prices[-1])


def _sum_by_number(terms: Floats, numbers: Ints) -> Floats:
    """(models, layers, n) -> (models, max(numbers) + 1, n) flattened: terms of layers with one number together."""
    total = np.zeros((len(terms), int(numbers.max()) + 1, terms.shape[2]))
    for layer, number in enumerate(numbers):
        total[:, number] += terms[:, layer]
    return total.reshape(len(terms), -1)


def _varying_axes(shapes: Sequence[Shapes]) -> Axes:
    axes = {
        name: tuple(i for i, d in enumerate(shape) if any(other[name][i] != d for other in shapes))
        for name, shape in shapes[0].items()
    }
    return {name: varying for name, varying in axes.items() if varying}


def fit_end_to_end(
    cells: Sequence[Cell], end_to_end: Sequence[EndToEndTime], layers: Layers, uncut_ms: float
) -> WholeModelFit:
    """Fit the prices of layers to what a table holds.

    Args:
        cells: a cell without a time for each layer of the measured models, for the shapes of all tensors.
        end_to_end: the times of the measured models, and of the uncut model in the same rounds.
        layers: the uncut model's layers.
        uncut_ms: the uncut model's time.
    """
    shapes: dict[int, dict[str, tuple[int, ...]]] = {time.model: {} for time in end_to_end}
    for cell in cells:
        shapes[cell.model].update(zip(layers.tensors(cell.layers[0]), map(tuple, cell.shapes), strict=True))
    ratios = np.array([time.ratio for time in end_to_end])
    uncut = next((i for i, time in enumerate(end_to_end) if time.model == 0), None)
    return fit_whole_model(layers.proto, list(shapes.values()), ratios, uncut, uncut_ms)
