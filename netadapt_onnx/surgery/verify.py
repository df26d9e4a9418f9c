"""Prove a cut: the pruned model equals the masked reference, on every tensor and not only on the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from netadapt_onnx.runtime import Arrays, exposing, random_inputs, run, session
from netadapt_onnx.surgery.reference import masked_reference
from netadapt_onnx.surgery.resize import Cut, resize
from netadapt_onnx.surgery.trace import KeptIndices, Trace

TOLERANCE = 1e-4
RUNS = 5
# onnxruntime's Sigmoid is off by 1.4e-7 in absolute terms whatever the result: bounded ops have a scale of 1.
BOUNDED = {"Sigmoid", "Tanh", "Softmax", "LogSoftmax", "HardSigmoid", "Erf", "Sin", "Cos", "Softsign"}
# A tensor whose values differ by less than this share of their size is compared on its size instead.
STILL = 1e-2
# An output that moves less than this share of its size with the inputs is dead or saturated: it proves nothing.
MOVES = 1e-6


@dataclass(frozen=True)
class Verification:
    """Largest difference over all tensors, relative to each tensor's own movement across the seeded inputs.

    `exact` means at most 1e-4 everywhere, with something to compare; `worst_tensor` is where the largest difference is,
    `first_bad_tensor` the first in topological order beyond the tolerance; `moves` is False when no float output of
    the model reacts to its inputs, so that the outputs alone would have proved nothing.
    """

    max_rel_diff: float
    exact: bool
    inexact_groups: tuple[str, ...]
    worst_tensor: str
    first_bad_tensor: str | None
    tensors: int
    moves: bool


def verify(
    trace: Trace, keep: KeptIndices, *, pruned: onnx.ModelProto | None = None, seed: int = 0, runs: int = RUNS
) -> Verification:
    """Compare a pruned model (built from `keep` unless given) with its masked reference in onnxruntime.

    Both run on `runs` seeded random inputs with optimisations off. The difference is max |a - b| at kept positions over
    the standard deviation of the reference across the inputs. Raises NetadaptError if onnxruntime refuses the pruned
    model.
    """
    cut = Cut(trace, keep)
    model = pruned if pruned is not None else resize(trace, keep)
    reference = masked_reference(trace, cut, model)
    produced = {name for node in model.graph.node for name in node.output if name}
    names = [
        name
        for node in trace.folded.proto.graph.node
        for name in node.output
        if name in produced and trace.folded.dtypes.get(name, np.dtype(int)).kind == "f"
        if not trace.labels.is_view(name)  # a weight: what computes with it is compared
    ]
    bounded = {name for node in trace.folded.proto.graph.node if node.op_type in BOUNDED for name in node.output}
    compared = list(_differences(trace, cut, reference, model, names, bounded, range(seed, seed + runs)))
    differences = {name: difference for name, difference, _ in compared}
    worst = max(differences, key=lambda name: _ordered(differences[name]), default="")
    largest = differences.get(worst, 0.0)
    bad = next((name for name in names if name in differences and not differences[name] <= TOLERANCE), None)
    outputs = [value.name for value in trace.folded.proto.graph.output]
    return Verification(
        max_rel_diff=float(largest),
        exact=bad is None and bool(compared),
        inexact_groups=(),
        worst_tensor=worst,
        first_bad_tensor=bad,
        tensors=len(names),
        moves=any(name in outputs and movement > MOVES for name, _, movement in compared),
    )


def _ordered(value: float) -> float:
    return np.inf if np.isnan(value) else value


def _differences(
    trace: Trace,
    cut: Cut,
    reference: onnx.ModelProto,
    model: onnx.ModelProto,
    names: list[str],
    bounded: set[str],
    seeds: range,
) -> Iterator[tuple[str, float, float]]:
    """(tensor, relative difference, share of its size that moves with the inputs) for every tensor compared."""
    if not names:
        return
    gap = dict.fromkeys(names, 0.0)
    sums: Arrays = {}
    squares: Arrays = {}
    expected_session = session(exposing(reference, names), optimise=False)
    actual_session = session(exposing(model, names), optimise=False)
    for seed in seeds:
        inputs = random_inputs(trace.folded.specs, seed)
        expected, actual = run(expected_session, inputs, names), run(actual_session, inputs, names)
        for name in names:
            wanted, got = _kept(expected[name], cut, name), actual[name]
            if wanted.shape != got.shape:
                gap[name] = np.inf
                continue
            wanted, got = wanted.astype(np.float64), got.astype(np.float64)
            same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
            with np.errstate(invalid="ignore"):
                apart = np.where(same, 0.0, np.abs(wanted - got))
            # NaN against a number is as far apart as can be, and would otherwise lose every comparison.
            gap[name] = max(gap[name], float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0)))
            finite = np.where(np.isfinite(wanted), wanted, 0.0)
            sums[name] = sums.get(name, np.zeros(())) + finite
            squares[name] = squares.get(name, np.zeros(())) + finite**2
    for name in names:
        if name not in sums:
            yield name, gap[name], 0.0
            continue
        count = max(sums[name].size, 1) * len(seeds)
        mean, square = float(sums[name].sum()) / count, float(squares[name].sum()) / count
        spread = float(np.sqrt(max(square - mean**2, 0.0)))
        scale = max(spread, STILL * float(np.sqrt(square)), 1.0 if name in bounded else 0.0)
        variance = np.maximum(squares[name] / len(seeds) - (sums[name] / len(seeds)) ** 2, 0.0)
        movement = float(np.sqrt(variance.mean())) if variance.size else 0.0
        if scale > 0 or gap[name] > 0:
            yield name, gap[name] / scale if scale > 0 else np.inf, movement / np.sqrt(square) if square > 0 else 0.0


def _kept(array: np.ndarray, cut: Cut, name: str) -> np.ndarray:
    for axis in range(array.ndim):
        mask = cut.kept(name, axis)
        if not mask.all():
            array = array.compress(mask, axis=axis)
    return array
