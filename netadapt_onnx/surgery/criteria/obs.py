"""The criterion `obs`: which channels go by what the layers that read them lose, once these are solved anew.

From the Gram matrices that reconstruction solves with comes, for each group, one order in which its channels go and the
error of its consumers at every count (`elimination.py`). A group's consumers are all convolutions and matrix products
whose inputs carry its labels, whatever lies in between: those along a residual stream, the one behind a depthwise layer
or behind a Flatten. No labels and no gradients are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from netadapt_onnx.common.parallel import in_order
from netadapt_onnx.common.progress import counting
from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery.criteria.consumers import Consumer, Consumers
from netadapt_onnx.surgery.criteria.elimination import Elimination, eliminate
from netadapt_onnx.surgery.criteria.scores import OBS, Criterion, RememberedScores
from netadapt_onnx.surgery.criteria.weights import l2
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.reconstruct.gram import GramMatrices, own_gram_matrices
from netadapt_onnx.surgery.trace import Trace

# Errors on held-out inputs are measured at so many counts; in between, what they are above the others is interpolated.
HELD_OUT_COUNTS = 8


def obs_criterion(inputs: Callable[[], Arrays], seed: int = 0) -> Criterion:
    """The criterion `obs`.

    Args:
        inputs: Returns the inputs, samples first; it is called once a model, so that they need not stay in memory.
        seed: The seed of the positions at which layers are looked at.
    """
    return criterion_of(lambda trace: eliminations(trace, own_gram_matrices(trace, inputs(), seed)))


def criterion_of(eliminations_of: Callable[[Trace], Mapping[str, Elimination]]) -> Criterion:
    """The criterion `obs`, by what gives the eliminations of a model; it is asked once a model."""

    def label_scores(trace: Trace) -> np.ndarray:
        scores = np.zeros(len(trace.roots))
        for name, elimination in eliminations_of(trace).items():
            scores[trace.members[name]] = elimination.scores[elimination.class_of]
        return scores

    return RememberedScores(OBS, label_scores, serves_cuts=True)


def eliminations(
    trace: Trace, matrices: Mapping[str, GramMatrices], held_out: Mapping[str, GramMatrices] | None = None
) -> dict[str, Elimination]:
    """In which order the channels of every prunable group go, and the error of its consumers at every count.

    Where no consumer of a group can be solved (those of queries and keys are no layers; some are too large, or share
    their weights with another layer) its channels go by their L2 norm, and the error is their share of the squared
    norm: from 0 to 1, as that of one consumer.

    Args:
        trace: The model.
        matrices: The Gram matrices of its layers' inputs, which its layers are solved with.
        held_out: The same of other inputs, which errors are measured on; by default on those that solve. Of few samples
            these fit too well: half of the last 1,280 channels of EfficientNet-Lite0 cost 0.03% of the output on the
            128 pictures that solve, 33% on 100 others.

    Returns:
        By prunable group its elimination.
    """
    consumers = Consumers(trace, matrices)

    def elimination_of(group: Group) -> Elimination:
        classes, class_of = np.unique(trace.members[group.name], return_inverse=True)
        readers = consumers.of(group)
        present = [np.unique(reader.class_of[reader.class_of >= 0]) for reader in readers]
        if len(np.unique(np.concatenate([np.zeros(0, np.int64), *present]))) < len(classes):
            return _by_norm(trace, group, class_of)
        order, added = eliminate([system for reader in readers for system in reader.systems()], len(classes))
        elimination = Elimination(class_of, order, np.concatenate([[0.0], np.cumsum(added)]))
        if held_out is None:
            return elimination
        grams = [consumers.gram(reader.layer, held_out[reader.layer.output]) for reader in readers]
        return _measured(elimination, readers, grams)

    results = in_order(elimination_of, counting("ordering channels", trace.prunable))
    return {group.name: result for group, result in zip(trace.prunable, results, strict=True)}


def _by_norm(trace: Trace, group: Group, class_of: Array) -> Elimination:
    """The classes in the order of their L2 norms, with the shares of the group's squared norm as errors."""
    squares = np.bincount(class_of, weights=l2(trace, group) ** 2)
    order = np.argsort(squares, kind="stable")
    shares = squares[order] / (float(squares.sum()) or 1.0)
    return Elimination(class_of, order, np.concatenate([[0.0], np.cumsum(shares)]))


def _measured(elimination: Elimination, readers: Sequence[Consumer], grams: Sequence[np.ndarray]) -> Elimination:
    """The same with the errors on other inputs, of which `grams` are the Gram matrices, never falling."""
    errors, order = elimination.errors, elimination.order
    counts = np.unique(np.linspace(0, len(order), HELD_OUT_COUNTS + 1).astype(int))
    above = [
        sum(reader.error(order[:gone], gram) for reader, gram in zip(readers, grams, strict=True)) - errors[gone]
        for gone in counts
    ]
    measured = errors + np.interp(np.arange(len(errors)), counts, above)
    return replace(elimination, errors=np.maximum.accumulate(np.maximum(measured, 0.0)))
