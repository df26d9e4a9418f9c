"""A table without times per layer: what layers cost is fitted to the times of whole versions alone.

Compiling providers run a whole subgraph as one node. Each version then gives one equation, with less to tell layers
apart than cells have. So the fit has two levels: first a price per multiplication for each class of layers and one per
element moved, common to all; then every kind of layer departs from those, the less the less the versions say of it
(ridge regression towards the first level). How far is chosen by leaving versions out.
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
from netadapt_onnx.profilers.table.kernel_fit import Floats, Stairs, nonnegative, robust_nonnegative
from netadapt_onnx.profilers.units import attributes

Shapes = Mapping[str, tuple[int, ...]]
# By tensor: which of its axes are widths, that is, differ between versions.
Axes = Mapping[str, tuple[int, ...]]
BLOCKS, ALIGNMENTS = (1, 4, 8, 16, 32), (1, 4, 8)
# How freely kinds may depart from the common prices, from hardly at all to nearly as the data say.
STIFFNESS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
# The spread of a version's time between fresh sessions: what departures are weighed against.
NOISE = 0.02
# Versions that are far off count by their distance, not its square (Huber 1964): so often are they weighed anew.
ROUNDS = 5
# Fewer equations cannot even hold the common prices.
FEWEST = 8
# What departures are measured against: the first level's share of the uncut model's time, but at least this.
LEAST_SHARE = 0.002
# Relative budgets are shares of the uncut model's time, so the fit should pass close by it.
REFERENCE_WEIGHT = 3.0


class Counter:
    """What each layer of a version multiplies and moves; layers of one `kind` differ in nothing but widths."""

    def __init__(self, proto: onnx.ModelProto, example: Shapes, axes: Axes) -> None:
        self._cost = CostModel(proto)
        self._axes = axes
        nodes = [node for node in proto.graph.node if all(name in example for name in [*_read(node), *_made(node)])]
        self.names = [node_name(node) for node in nodes]
        self._tensors = [(_read(node), _made(node)) for node in nodes]
        self._index = {name: i for i, name in enumerate(self.names)}
        grouped = ["grouped" if _group(node) > 1 else "" for node in nodes]
        fixed = [
            [tuple(None if axis in axes.get(t, ()) else d for axis, d in enumerate(example[t])) for t in made]
            for _, made in self._tensors
        ]
        classes = [
            f"{n.op_type} {attributes(n).get('kernel_shape', '')} {g}" for n, g in zip(nodes, grouped, strict=True)
        ]
        kinds = [
            repr((n.op_type, g, sorted(attributes(n).items()), f))
            for n, g, f in zip(nodes, grouped, fixed, strict=True)
        ]
        self.classes, self.kinds = _numbered(classes), _numbered(kinds)

    def __call__(self, shapes: Shapes, stairs: Stairs) -> Floats:
        """(layers, 4): multiplications, elements of operands and of results, and multiplications off the alignment."""
        raised = {
            name: tuple(
                -(-d // stairs.block) * stairs.block if i in self._axes.get(name, ()) else d for i, d in enumerate(s)
            )
            for name, s in shapes.items()
        }
        terms = np.zeros((len(self.names), 4))
        for layer in self._cost.layers(raised):
            if layer.name in self._index:
                terms[self._index[layer.name], 0] = layer.macs
        for i, (read, made) in enumerate(self._tensors):
            terms[i, 1:3] = sum(prod(raised[t]) for t in read), sum(prod(raised[t]) for t in made)
            widths = [shapes[t][axis] for t in (*read, *made) for axis in self._axes.get(t, ())]
            terms[i, 3] = terms[i, 0] * any(width % stairs.alignment for width in widths)
        return terms


def _read(node: onnx.NodeProto) -> list[str]:
    return list(dict.fromkeys(name for name in node.input if name))


def _made(node: onnx.NodeProto) -> list[str]:
    return [name for name in node.output if name]


def _group(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _numbered(keys: Sequence[str]) -> np.ndarray:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


@dataclass(frozen=True)
class WholeFit:
    """Predicts times relative to the uncut model's. `prices`: (layers, 4), for what `Counter` counts; a constant.

    `error`: the mean relative error of versions that were left out. `covariance`: of prices by kind, in units of the
    versions' noise; `noise`: so much of it 95% of the left-out versions are off.
    """

    counter: Counter
    stairs: Stairs
    prices: Floats
    constant: float
    error: float
    covariance: Floats
    noise: float

    def predict_ratio(self, shapes: Shapes) -> float:
        """Time relative to the uncut model's."""
        return self.constant + float((self.counter(shapes, self.stairs) * self.prices).sum())

    def predict_error(self, shapes: Shapes) -> float:
        """The relative error that 95% of such predictions stay within: more where the versions say less."""
        own = _Levels(self.counter, self.counter(shapes, self.stairs)[None]).own[0]
        row = own / max(1e-9, self.predict_ratio(shapes))
        return self.noise * float(np.sqrt(1 + row @ self.covariance @ row))

    def predict_layers(self, shapes: Shapes) -> dict[str, float]:
        """The part of that which is each layer's."""
        parts = (self.counter(shapes, self.stairs) * self.prices).sum(1)
        return dict(zip(self.counter.names, parts.tolist(), strict=True))


def fit_wholes(proto: onnx.ModelProto, versions: Sequence[Shapes], ratios: Floats, uncut: int | None) -> WholeFit:
    """Fit to the times of `versions` (shapes of all tensors) relative to the uncut model's, which is number `uncut`.

    Raises NetadaptError if there are too few versions.
    """
    if len(versions) < FEWEST:
        raise NetadaptError(
            f"{len(versions)} measured versions are too few to fit {proto.graph.name or 'the model'} to",
            hint="raise the time cap",
            code="table",
        )
    counter = Counter(proto, versions[0], _varying(versions))
    weight = np.array([REFERENCE_WEIGHT if i == uncut else 1.0 for i in range(len(versions))]) / ratios
    tried = []
    for stairs in (Stairs(block, alignment) for block in BLOCKS for alignment in ALIGNMENTS):
        level = _Levels(counter, np.array([counter(shapes, stairs) for shapes in versions]))
        tried.append((level.left_out(ratios, weight), stairs, level))
    (error, stiffness), stairs, level = min(tried, key=lambda one: one[0][0])
    trust: Floats = np.ones_like(ratios)
    for _ in range(ROUNDS):
        prices, constant = level.prices(ratios, weight * np.sqrt(trust), stiffness)
        errors = np.abs((level.terms * prices).sum((1, 2)) + constant - ratios) / ratios
        trust = np.minimum(1.0, 1.5 * max(1e-6, float(np.median(errors))) / np.maximum(errors, 1e-12))
    return WholeFit(counter, stairs, prices, constant, error, *level.uncertainty(ratios, weight, stiffness))


@dataclass(frozen=True)
class _Levels:
    """The two levels' equations. `terms`: (versions, layers, 4)."""

    counter: Counter
    terms: Floats

    @cached_property
    def common(self) -> Floats:
        """(versions, columns): multiplications by class, operands, results, off the alignment, one."""
        macs = _summed(self.terms[:, :, :1], self.counter.classes)
        rest = self.terms[:, :, 1:].sum(1)
        return np.concatenate([macs, rest, np.ones((len(rest), 1))], 1)

    @cached_property
    def own(self) -> Floats:
        """(versions, columns): multiplications, operands and results by kind, off the alignment, one."""
        return np.concatenate([_summed(self.terms[:, :, :3], self.counter.kinds), self.common[:, -2:]], 1)

    def prior(self, ratios: Floats, weight: Floats) -> Floats:
        """The first level's prices for the columns of the second."""
        found = robust_nonnegative(self.common, ratios, weight * ratios)
        classes = int(self.counter.classes.max()) + 1
        kinds = int(self.counter.kinds.max()) + 1
        spread = np.zeros((kinds, 3))
        spread[self.counter.kinds, 0] = found[:classes][self.counter.classes]
        spread[:, 1:] = found[classes : classes + 2]
        return np.concatenate([spread.ravel(), found[-2:]])

    def _system(self, ratios: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
        """Rows, what the prior leaves of them, and how far each price is likely to depart from it."""
        prior = self.prior(ratios, weight)
        size = np.maximum(self.own.mean(0), 1e-30)
        likely = np.maximum(prior * size, LEAST_SHARE) / size
        return self.own * weight[:, None], (ratios - self.own @ prior) * weight, likely

    def left_out(self, ratios: Floats, weight: Floats) -> tuple[float, float]:
        """The mean error of versions predicted without themselves, and the stiffness with the least."""
        rows, rest, likely = self._system(ratios, weight)
        gram = (rows * likely) @ (rows * likely).T
        found = []
        for stiffness in STIFFNESS:
            hat = gram @ np.linalg.inv(gram + stiffness * NOISE**2 * np.eye(len(rest)))
            errors = (rest - hat @ rest) / np.maximum(1e-3, 1 - np.diag(hat))
            found.append((float(np.abs(errors).mean()), stiffness))
        return min(found)

    def uncertainty(self, ratios: Floats, weight: Floats, stiffness: float) -> tuple[Floats, float]:
        """The covariance of prices by kind in units of noise, and how many of these 95% of left-out versions are off.

        That of ridge regression as a Gaussian prior (Hoerl and Kennard 1970); the noise is what left-out versions show.
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
        found = nonnegative(a, y) * likely
        own = found[:-2].reshape(-1, 3)[self.counter.kinds]
        return np.concatenate([own, np.full((len(own), 1), found[-2])], 1), float(found[-1])


def _summed(terms: Floats, numbers: np.ndarray) -> Floats:
    """(versions, layers, n) -> (versions, max(numbers) + 1, n) flattened: terms of layers with one number together."""
    total = np.zeros((len(terms), int(numbers.max()) + 1, terms.shape[2]))
    for layer, number in enumerate(numbers):
        total[:, number] += terms[:, layer]
    return total.reshape(len(terms), -1)


def _varying(versions: Sequence[Shapes]) -> Axes:
    first = versions[0]
    found = {
        name: tuple(i for i, d in enumerate(shape) if any(other[name][i] != d for other in versions))
        for name, shape in first.items()
    }
    return {name: axes for name, axes in found.items() if axes}
