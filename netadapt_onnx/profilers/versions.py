"""Versions of a model that are measured in its stead: itself with every group of channels at a random width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.model import node_name
from netadapt_onnx.runtime import Arrays, random_inputs
from netadapt_onnx.surgery.criteria import select
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace

# Widths that a search proposes are multiples of this, mostly; shares of versions and of their groups that are not.
STEP = 8
UNALIGNED_VERSIONS, UNALIGNED_GROUPS = 0.3, 0.5


@dataclass(frozen=True)
class Variant:
    """A version of a model and the shape of every tensor in it."""

    proto: onnx.ModelProto
    shapes: Mapping[str, tuple[int, ...]]

    def inputs(self, seed: int = 0) -> Arrays:
        """Random inputs at these shapes."""
        specs = {
            v.name: (self.shapes[v.name], np.dtype(onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)))
            for v in self.proto.graph.input
        }
        return random_inputs(specs, seed)


Draw = Callable[[np.random.Generator], Variant]


def random_versions(trace: Trace) -> Draw:
    """Versions of a traced model with every prunable group at a random width.

    Each version has a size of its own, so that nearly whole and nearly empty ones occur, and groups left whole are
    common, as in a search; some versions have unaligned groups. Raises NetadaptError if no group can be pruned.
    """
    if not trace.prunable:
        raise NetadaptError("the model has no prunable group", hint="`netadapt-onnx inspect` says why", code="nothing")

    def draw(rng: np.random.Generator) -> Variant:
        size = rng.uniform(0.3, 1.15)
        # Not all groups at once: kernels that read aligned and write unaligned widths cost something else again.
        unaligned = UNALIGNED_GROUPS if rng.random() < UNALIGNED_VERSIONS else 0.0
        counts = {group.name: _width(group, size, rng.random() >= unaligned, rng) for group in trace.prunable}
        keep = select(trace, counts, "first")
        return Variant(resize(trace, keep), trace.resized_shapes(keep))

    return draw


def _width(group: Group, size: float, aligned: bool, rng: np.random.Generator) -> int:
    share = float(np.clip(rng.uniform(size - 0.3, size + 0.3), 0.1, 1.0))
    step = int(np.lcm(STEP, group.step)) if aligned else group.step
    count = round(share * group.channels / step) * step
    return int(min(group.channels, max(count, step, group.floor)))


def named(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name of its own: profiles know nodes by name only."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    seen: set[str] = set()
    for node in copy.graph.node:
        name = node_name(node)
        node.name = name if name not in seen else node.output[0]
        seen.add(node.name)
    return copy
