"""Residual branches: what may go entirely, because a sum can be replaced by its other input.

The rule looks at the graph alone: an Add of two tensors of one shape, one of which is computed from the other. Without
the Add and all that only it needed, whoever read the sum reads the other tensor; every shape stays. (Removing whole
blocks after NetAdapt's: Yang et al., ECCV 2018, section 3; NatGr does it for MobileNets.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.errors import NetadaptError, did_you_mean
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.nodes import captured, node_name, reads, replace_all
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.graph.weightless import without_weights
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.surgery.verify.compare import Tally
from netadapt_onnx.surgery.verify.prove import TOLERANCE
from netadapt_onnx.surgery.verify.upcast import upcast, upcast_dtype

PROOF_RUNS = 2


@dataclass(frozen=True)
class Branch:
    """A residual branch.

    Attributes:
        name: The name of its Add.
        nodes: The names of the nodes that go with it.
        groups: The groups that go with it.
    """

    name: str
    nodes: frozenset[str]
    groups: tuple[str, ...]


def find_branches(original: Trace) -> tuple[Branch, ...]:
    """The branches of a model, in topological order, of which any may go, and all together.

    Not among them are those whose removal would take no layer with it, or leave other groups than the original's.
    """
    names = {group.name for group in original.groups}
    branches: list[Branch] = []
    for name in _sums(original.folded):
        nodes = _names(original.folded) - _names(without(original.folded, [name]))
        if name in names or nodes.isdisjoint(layer.name for layer in original.labels.layers):
            continue
        before = [branch.name for branch in branches]
        alone, together = (traced_without(original, [*others, name]) for others in ((), before))
        if not (same_groups(original, alone) and same_groups(original, together)):
            continue
        still = {group.name for group in alone.groups}
        branches.append(Branch(name, nodes, tuple(g.name for g in original.prunable if g.name not in still)))
        names.add(name)
    return tuple(branches)


def check_branches(original: Trace, names: Collection[str], where: str) -> frozenset[str]:
    """Check that each name is that of a branch of the model.

    Args:
        original: The model.
        names: The names.
        where: What they come from, for the message.

    Raises:
        NetadaptError: If one is not; the hint holds the nearest names.
    """
    branches = [branch.name for branch in find_branches(original)] if names else []
    for name in names:
        if name not in branches:
            hint = did_you_mean(name, branches, f"its branches: {', '.join(branches) or 'none'}")
            raise NetadaptError(f"{where}: the model has no removable branch '{name}'", hint=hint, code="unknown-group")
    return frozenset(names)


def without(folded: FoldedModel, names: Collection[str]) -> FoldedModel:
    """The model without these branches; those that went with others do not count any more."""
    streams = _sums(folded)
    instead: dict[str, str] = {}
    for node in folded.proto.graph.node:  # in topological order, so that what stands in is there already
        if node_name(node) in names and node_name(node) in streams:
            stream = streams[node_name(node)]
            instead[node.output[0]] = instead.get(stream, stream)
    copy = without_weights(folded.proto)
    for node in copy.graph.node:
        for slot, name in enumerate(node.input):
            if name in instead:
                node.input[slot] = instead[name]
    live, kept = {value.name for value in copy.graph.output}, []
    for node in reversed(copy.graph.node):
        if not live.isdisjoint(node.output):
            live.update(reads(node))
            kept.append(node)
    replace_all(copy.graph.node, reversed(kept))
    copy.graph.initializer.extend(t for t in folded.proto.graph.initializer if t.name in live)
    tensors = live | set(folded.specs) | {name for node in copy.graph.node for name in node.output}
    stale = [value for value in copy.graph.value_info if value.name not in tensors]
    for value in stale:
        copy.graph.value_info.remove(value)
    return FoldedModel(
        copy,
        {name: shape for name, shape in folded.shapes.items() if name in tensors},
        {name: dtype for name, dtype in folded.dtypes.items() if name in tensors},
        folded.specs,
        folded.batch_size,
        folded.unrunnable,
        folded.assumed,
        folded.sampled & tensors,
        folded.fixed,
    )


def traced_without(original: Trace, names: Collection[str]) -> Trace:
    """The trace of the model without these branches."""
    return trace(without(original.folded, names), original.labels.choices) if names else original


def same_groups(original: Trace, smaller: Trace) -> bool:
    """Whether the groups of a model without some branches are the original's, but for those that went entirely."""
    by_name = {group.name: group for group in original.groups}
    kinds = ("channels", "step", "floor")
    for group in smaller.prunable:
        before = by_name.get(group.name)
        if before is None or any(getattr(group, kind) != getattr(before, kind) for kind in kinds):
            return False
    still, nodes = {group.name for group in smaller.groups}, _names(smaller.folded)
    return all(nodes.isdisjoint(group.layers) for group in original.prunable if group.name not in still)


def rewired(before: FoldedModel, after: FoldedModel) -> frozenset[str]:
    """First outputs of the nodes that read other tensors than before."""
    inputs = {node.output[0]: list(node.input) for node in before.proto.graph.node}
    return frozenset(n.output[0] for n in after.proto.graph.node if list(n.input) != inputs.get(n.output[0]))


def removal_error(folded: FoldedModel, names: Collection[str], seed: int = 0) -> float:
    """How far the model without these branches is from the one in which they contribute zero.

    Args:
        folded: The model.
        names: The branches.
        seed: The seed of the random inputs.

    Returns:
        The largest difference over all floating-point tensors that both compute, relative to each one's spread.
    """
    streams = _sums(folded)
    small = without(folded, names).proto
    masked = without_weights(folded.proto)
    masked.graph.initializer.extend(folded.proto.graph.initializer)
    nodes: list[onnx.NodeProto] = []
    for node in folded.proto.graph.node:
        if node_name(node) in names and node_name(node) in streams:
            slot = 1 - list(node.input).index(streams[node_name(node)])
            branch, zero = node.input[slot], f"{node.output[0]}/zero"
            dtype = folded.dtypes[node.output[0]]
            masked.graph.initializer.append(numpy_helper.from_array(np.zeros((), dtype), zero))
            nodes.append(onnx.helper.make_node("Mul", [branch, zero], [f"{zero}ed"]))
            node = onnx.NodeProto.FromString(node.SerializeToString())
            node.input[slot] = f"{zero}ed"
        nodes.append(node)
    del masked.graph.node[:]
    masked.graph.node.extend(nodes)
    outputs = [name for node in small.graph.node for name in node.output if name in folded.dtypes]
    shared = [name for name in outputs if upcast_dtype(folded.dtypes[name]).kind == "f"]
    expected = session(upcast(masked), outputs=shared, optimise=False)
    actual = session(upcast(small), outputs=shared, optimise=False)
    tallies = {name: Tally() for name in shared}
    specs = {name: (shape, upcast_dtype(dtype)) for name, (shape, dtype) in folded.specs.items()}
    for number in range(PROOF_RUNS):
        inputs = random_inputs(specs, seed + number)
        references, results = run(expected, inputs, shared), run(actual, inputs, shared)
        for name, tally in tallies.items():
            tally.add(references[name], results[name])
    return max((tally.difference(False) for tally in tallies.values()), default=0.0)


def prove_removal(folded: FoldedModel, names: Collection[str]) -> None:
    """Raise NetadaptError unless the model without these branches is the one in which they contribute zero."""
    error = removal_error(folded, names)
    if not error <= TOLERANCE:
        raise NetadaptError(
            f"the model without {', '.join(sorted(names))} differs by {error:.2g} from the one in which it adds zero",
            hint="please report this model",
            code="not-proven",
        )


def _sums(folded: FoldedModel) -> dict[str, str]:
    """By name of an Add: the input that may stand in for its sum, from which the other is computed."""
    graph = folded.proto.graph
    producer = {name: node for node in graph.node for name in node.output if name}
    fixed = {value.name for value in graph.output} | {name for node in graph.node for name in captured(node)}
    shapes, streams = folded.shapes, dict[str, str]()
    named = Counter(map(node_name, graph.node))
    for node in graph.node:
        if named[node_name(node)] > 1:
            continue
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx") or node.output[0] in fixed:
            continue
        one, other = node.input
        if one == other or not {one, other} <= producer.keys() | folded.specs.keys():
            continue
        if one not in shapes or not shapes[one] == shapes.get(other) == shapes.get(node.output[0]):
            continue
        stream = (
            one if _computed_from(other, one, producer) else other if _computed_from(one, other, producer) else None
        )
        if stream is not None:
            streams[node_name(node)] = stream
    return streams


def _computed_from(name: str, source: str, producer: dict[str, onnx.NodeProto]) -> bool:
    seen, waiting = {name}, [name]
    while waiting:
        node = producer.get(waiting.pop())
        for read in reads(node) if node is not None else ():
            if read == source:
                return True
            if read not in seen:
                seen.add(read)
                waiting.append(read)
    return False


def _names(folded: FoldedModel) -> frozenset[str]:
    return frozenset(node_name(node) for node in folded.proto.graph.node)
