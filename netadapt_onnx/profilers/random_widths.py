"""Random-width models: versions of a model with its groups of channels at other widths, which are measured for tables.

Searches and users ask for widths of several kinds, and a table has to be right on all of them: it does not know what
its fit has not seen. Made of aligned widths mostly, a table of ResNet-20 was off by 52% at a tenth of the channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import node_name
from netadapt_onnx.graph.runtime import Arrays, random_inputs
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace

# Widths that a search proposes are multiples of this, mostly; shares of models and of their groups that are not.
STEP = 8
UNALIGNED_MODELS, UNALIGNED_GROUPS = 0.3, 0.5
# search: widths around a size, aligned mostly, as a search meets them; odd: the same at any count; uniform: one share
# of every group, as `prune --ratio` cuts; narrow: every group from its floor to a quarter; single: one group so, the
# others uncut.
Kind = Literal["search", "uniform", "narrow", "odd", "single"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# How much of a table is made of each.
MIXTURE: Mapping[Kind, float] = {"search": 0.5, "uniform": 0.15, "narrow": 0.15, "odd": 0.15, "single": 0.05}
# The widths of narrow groups, as shares of their channels.
NARROW = (0.02, 0.25)


@dataclass(frozen=True)
class RandomWidthModel:
    """A model at some widths, and the shape of every tensor in it."""

    proto: onnx.ModelProto
    shapes: Mapping[str, tuple[int, ...]]

    def inputs(self, seed: int = 0) -> Arrays:
        """Draw random inputs of the model's shapes."""
        kinds = {v.name: v.type.tensor_type.elem_type for v in self.proto.graph.input}
        dtypes = {name: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)) for name, kind in kinds.items()}
        return random_inputs({name: (self.shapes[name], dtype) for name, dtype in dtypes.items()}, seed)


class Draw(Protocol):
    """Draws random-width models."""

    def __call__(self, rng: np.random.Generator, kind: Kind | None = None) -> RandomWidthModel:
        """Draw a model of this kind; None: of a kind that is drawn from the mixture."""


def random_widths(trace: Trace) -> Draw:
    """A function that draws models of a trace with every prunable group at a random width, of all kinds.

    Raises NetadaptError if no group can be pruned.
    """
    if not trace.prunable:
        raise NetadaptError(
            "the model has no prunable group", hint="`netadapt-onnx inspect MODEL` says why", code="nothing"
        )

    def draw(rng: np.random.Generator, kind: Kind | None = None) -> RandomWidthModel:
        chosen = kind or KINDS[rng.choice(len(KINDS), p=[MIXTURE[k] for k in KINDS])]
        keep = select(trace, random_counts(trace.prunable, chosen, rng), "first")
        return RandomWidthModel(resize(trace, keep), trace.resized_shapes(keep))

    return draw


def random_counts(groups: Sequence[Group], kind: Kind, rng: np.random.Generator) -> dict[str, int]:
    """Draw a width for every group, by name."""
    if kind == "uniform":
        share = rng.uniform(0.1, 1.0)
        return {group.name: _count(group, share, group.step) for group in groups}
    if kind == "narrow":
        return {group.name: _narrow(group, rng) for group in groups}
    if kind == "single":
        chosen = groups[int(rng.integers(len(groups)))]
        return {group.name: _narrow(group, rng) if group is chosen else group.channels for group in groups}
    # Each model has a size of its own, so that nearly uncut and nearly empty ones occur, and uncut groups are
    # common, as in a search.
    size = rng.uniform(0.3, 1.15)
    # Not all groups at once: kernels that read aligned and write unaligned widths cost something else again.
    unaligned = 1.0 if kind == "odd" else UNALIGNED_GROUPS if rng.random() < UNALIGNED_MODELS else 0.0
    counts = {}
    for group in groups:
        step = group.step if rng.random() < unaligned else math.lcm(STEP, group.step)
        counts[group.name] = _count(group, float(np.clip(rng.uniform(size - 0.3, size + 0.3), 0.1, 1.0)), step)
    return counts


def _narrow(group: Group, rng: np.random.Generator) -> int:
    low, high = np.log(NARROW)
    return _count(group, float(np.exp(rng.uniform(low, high))), group.step)


def _count(group: Group, share: float, step: int) -> int:
    count = round(share * group.channels / step) * step
    return min(group.channels, max(count, step, group.floor))


def with_node_names(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model so that every node has a name of its own: profiles identify nodes by name only."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    seen: set[str] = set()
    for node in copy.graph.node:
        name = node_name(node)
        node.name = name if name not in seen else node.output[0]
        seen.add(node.name)
    return copy
