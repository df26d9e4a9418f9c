"""Prove a cut: the pruned model equals the masked reference, on every tensor and not only on the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.folded_model import refuse_huge
from netadapt_onnx.graph.loadable import wrong_cut
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.graph.shapes import Specs
from netadapt_onnx.surgery.cut import Cut, KeptIndices
from netadapt_onnx.surgery.flatten_subgraphs import BRANCHES, with_branch
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.verify.compare import Comparison, Tally
from netadapt_onnx.surgery.verify.exact_integers import with_exact_integers
from netadapt_onnx.surgery.verify.reference import masked_reference
from netadapt_onnx.surgery.verify.unrunnable import fed_tensors, relies_on_guesses, without_unrunnable
from netadapt_onnx.surgery.verify.upcast import has_quantised_recurrence, upcast, upcast_dtype, with_float_recurrence

# The masked reference and the pruned model.
Sides = tuple[onnx.ModelProto, onnx.ModelProto]
TOLERANCE = 1e-4
RUNS = 5
# onnxruntime's Sigmoid is off by 1.4e-7 in absolute terms whatever the result: bounded ops have a scale of 1.
BOUNDED = {"Sigmoid", "Tanh", "Softmax", "LogSoftmax", "HardSigmoid", "Erf", "Sin", "Cos", "Softsign"}
# An output that moves less than this share of its size with the inputs is dead or saturated: it proves nothing.
MOVES = 1e-6
# Terms that cancel leave differences this many times larger than one unit in the last place of the inputs makes.
ROUNDING = 16
# Integer arithmetic is exact: these are compared like floats. Other integers (classes, indices) follow from floats.
QUANTISERS = {"QuantizeLinear", "DynamicQuantizeLinear"}
EXACT_INTEGERS = {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}


@dataclass(frozen=True)
class Verification:
    """How far the pruned model is from its masked reference.

    Attributes:
        max_rel_diff: The largest difference over all tensors, relative to each one's own movement across the inputs.
        exact: Whether it is at most 1e-4 everywhere, with something to compare.
        inexact_groups: The groups for which nothing could be compared.
        worst_tensor: Where the largest difference is.
        first_bad_tensor: The first tensor in topological order beyond the tolerance.
        tensors: How many tensors were compared.
        moves: Whether there is evidence for any output; if not, the comparison proves little.
        outputs: For each output of the model the compared tensors that are evidence for it: itself, or, where it holds
            integers or does not move with the inputs, the last ones in front of it that do.
    """

    max_rel_diff: float
    exact: bool
    inexact_groups: tuple[str, ...]
    worst_tensor: str
    first_bad_tensor: str | None
    tensors: int
    moves: bool
    outputs: Mapping[str, tuple[str, ...]]


@stage("proving the cut")
def verify(
    trace: Trace, keep: KeptIndices, *, pruned: onnx.ModelProto | None = None, seed: int = 0, runs: int = RUNS
) -> Verification:
    """Compare a pruned model with its masked reference in onnxruntime.

    Both run on seeded random inputs with optimisations off, in float32 if they are of half precision. The difference is
    max |a - b| at kept positions over the standard deviation of the reference across the inputs.

    Args:
        trace: The original model.
        keep: The channels that each group keeps.
        pruned: The pruned model; built from `keep` if it is left out.
        seed: The seed of the first inputs.
        runs: How many inputs are compared.

    Raises:
        NetadaptError: If onnxruntime cannot run the original (`unverifiable`), or if it can, but not the cut model
            (`bad-cut`).
    """
    cut = trace.cut(keep)
    if cut.grows:
        raise NetadaptError("a model with new channels has no masked original to be compared with", code="usage")
    smaller = "verify it at smaller inputs with --shape"
    refuse_huge(trace.folded, "the cut cannot be verified", smaller, "unverifiable", at_once=2)  # in both models
    if trace.folded.unfinished:  # five times each model would not come further
        raise _unverifiable(trace.folded.unfinished[0])
    model = pruned if pruned is not None else resize(trace, keep)
    sides = (masked_reference(trace, cut, model), model)
    names = _comparable(trace, model)
    seeds = range(seed, seed + runs)
    if trace.folded.unrun and not relies_on_guesses(trace.folded):
        trace, names, sides = _runnable(trace, sides, names)
    differences, moving, unproven = _over_branches(trace, cut, sides, names, seeds)
    worst = max(differences, key=lambda name: differences[name], default="")
    bad = next((name for name in names if not differences[name] <= TOLERANCE), None)
    outputs = _evidence(trace.folded.proto.graph, moving)
    return Verification(
        max_rel_diff=differences.get(worst, 0.0),
        exact=bad is None and bool(names),
        inexact_groups=tuple(name for name in dict.fromkeys(unproven) if name in keep),
        worst_tensor=worst,
        first_bad_tensor=bad,
        tensors=len(names),
        moves=any(outputs.values()),
        outputs=outputs,
    )


def _over_branches(
    trace: Trace, cut: Cut, sides: Sides, names: list[str], seeds: range
) -> tuple[dict[str, float], set[str], list[str]]:
    """The largest differences as the inputs decide and with each branch taken, what moves, and groups left unproven.

    Inputs alone may never take a branch, or one that cannot be run.
    """
    differences = dict.fromkeys(names, 0.0)
    moving: set[str] = set()
    unproven: list[str] = []
    failed: list[NetadaptError] = []
    untraced = trace.flat.untraced
    ways = ("", *BRANCHES) if any(subgraph.attribute in BRANCHES for subgraph in trace.subgraphs) else ("",)
    for branch in ways:
        reference, model = (with_branch(s, branch, untraced) if branch or untraced else s for s in sides)
        try:
            of_branch, moved = _compare(trace, cut, (reference, model), names, seeds)
        except NetadaptError as error:
            failed.append(error)
            if _runs(trace, reference, seeds):  # then it is the cut that broke it
                raise wrong_cut(error.message) from error
            unproven += [g.name for g in trace.groups if branch and any(f"/{branch}/" in layer for layer in g.layers)]
            continue
        differences = {name: max(differences[name], of_branch[name]) for name in names}
        moving |= moved
    if len(failed) == len(ways):
        raise _unverifiable(trace.folded.unrunnable or failed[0].message) from failed[0]
    return differences, moving, unproven


def _unverifiable(why: str) -> NetadaptError:
    return NetadaptError(
        f"the cut cannot be verified: {why}",
        hint="prune with -o and without --verify writes it unproven",
        code="unverifiable",
    )


def _exact(trace: Trace, model: onnx.ModelProto) -> onnx.ModelProto:
    """A side of the comparison without half precision and without kernels that saturate."""
    return with_exact_integers(upcast(model), {**trace.flat.dtypes, **trace.folded.dtypes})


def _upcast_specs(trace: Trace) -> Specs:
    """Shapes and types of its inputs."""
    return {name: (shape, upcast_dtype(dtype)) for name, (shape, dtype) in trace.folded.specs.items()}


def _runs(trace: Trace, reference: onnx.ModelProto, seeds: range) -> bool:
    """Whether the reference alone runs on the inputs of a comparison that failed."""
    try:
        active = session(_exact(trace, reference))
        for seed in seeds:
            run(active, random_inputs(_upcast_specs(trace), seed))
    except NetadaptError:
        return False
    return True


def _runnable(trace: Trace, sides: Sides, names: list[str]) -> tuple[Trace, list[str], Sides]:
    """What can be run of both sides: nodes that cannot put out the same in both, which is drawn at random.

    They have no rule, so nothing that they read or put out is cut.
    """
    specs = {**trace.folded.specs, **fed_tensors(trace.folded)}
    reference, model = (without_unrunnable(side, trace.folded) for side in sides)
    produced = {name for node in model.graph.node for name in node.output}
    names = [name for name in names if name in produced]
    return replace(trace, folded=replace(trace.folded, specs=specs)), names, (reference, model)


def _compare(trace: Trace, cut: Cut, sides: Sides, names: list[str], seeds: range) -> tuple[dict[str, float], set[str]]:
    """The difference of every tensor, and those that move with the inputs."""
    if not names:
        return {}, set()
    nodes = trace.folded.proto.graph.node
    bounded = {name for node in nodes if node.op_type in BOUNDED for name in node.output}

    def compared(sides: Sides, handed: frozenset[str]) -> tuple[Comparison, dict[str, Tally], dict[str, float]]:
        expected, actual = (_exact(trace, side) for side in sides)
        both = Comparison(expected, actual, names, cut, _upcast_specs(trace), handed)
        tallies = both.run(seeds, trace.folded.sampled)
        return both, tallies, {name: tally.difference(name in bounded) for name, tally in tallies.items()}

    both, tallies, differences = compared(sides, frozenset())
    handed = frozenset(node.output[0] for node in nodes if node.op_type in QUANTISERS) & set(names)
    recurrent = has_quantised_recurrence(sides[1].graph)
    if (handed or recurrent) and not all(difference <= TOLERANCE for difference in differences.values()):
        if recurrent:
            sides = with_float_recurrence(sides[0]), with_float_recurrence(sides[1])
        both, tallies, differences = compared(sides, handed)
    suspects = {name: tallies[name] for name in names if not differences[name] <= TOLERANCE}
    if suspects:
        both.add_noise(suspects, seeds)
        differences |= {name: _beyond_rounding(differences[name], tally) for name, tally in suspects.items()}
    return differences, {name for name, tally in tallies.items() if tally.movement > MOVES}


def _comparable(trace: Trace, model: onnx.ModelProto) -> list[str]:
    """What both models compute: floats, bytes of quantised models, and sums of those."""
    produced = {name for node in model.graph.node for name in node.output if name}
    names = []
    for node in trace.folded.proto.graph.node:
        for name in node.output:
            dtype = trace.folded.dtypes.get(name)
            if dtype is None or name not in produced or trace.labels.is_view(name):
                continue  # of a view, which is a weight, what computes with it is compared
            integer = dtype.kind in "iu" and (dtype.itemsize == 1 or node.op_type in EXACT_INTEGERS)
            if upcast_dtype(dtype).kind == "f" or integer:
                names.append(name)
    return names


def _beyond_rounding(difference: float, tally: Tally) -> float:
    """The difference where terms cancel: what rounding alone makes of the tensor is tolerable."""
    limit = ROUNDING * tally.noise
    return min(difference, TOLERANCE * tally.gap / limit) if np.isfinite(tally.gap) and limit > 0 else difference


def _evidence(graph: onnx.GraphProto, moving: set[str]) -> dict[str, tuple[str, ...]]:
    """For each output the tensors nearest in front of it, itself included, that were compared and move."""
    producer = {name: node for node in graph.node for name in node.output if name}
    by_output: dict[str, tuple[str, ...]] = {}
    for value in graph.output:
        evidence: dict[str, None] = {}
        seen: set[str] = set()
        waiting = [value.name]
        while waiting:
            name = waiting.pop()
            if name in moving:
                evidence[name] = None
            elif name in producer and name not in seen:
                waiting.extend(producer[name].input)
            seen.add(name)
        by_output[value.name] = tuple(evidence)
    return by_output
