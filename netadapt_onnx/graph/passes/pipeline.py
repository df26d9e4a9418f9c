"""The passes, in the order in which they run.

A model goes through three lists: `NORMALISE` when it is loaded, which needs no shapes; the passes of `fold` in
`graph/fold_shapes.py`, which does (`sort_topologically`, `inline_if`, `fold_constants`); and `REWRITE` before surgery
labels its channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from netadapt_onnx.graph.passes.constants_to_initializers import constants_to_initializers, densify_initializers
from netadapt_onnx.graph.passes.drop_zero_state import drop_zero_state
from netadapt_onnx.graph.passes.gather_nd_to_gather import gather_nd_to_gather
from netadapt_onnx.graph.passes.hoist_loop_invariants import hoist_loop_invariants
from netadapt_onnx.graph.passes.inline_functions import inline_functions
from netadapt_onnx.graph.passes.normalise_declarations import (
    complete_header,
    drop_declared_shapes,
    drop_initializer_inputs,
    require_unique_names,
)
from netadapt_onnx.graph.passes.remove_identity import remove_identity
from netadapt_onnx.graph.passes.result import Pass, PassResult, run_passes
from netadapt_onnx.graph.passes.shuffle_to_gather import shuffle_to_gather
from netadapt_onnx.graph.passes.upgrade_opset import upgrade_opset

if TYPE_CHECKING:
    from netadapt_onnx.graph.folded_model import FoldedModel

# One spelling for what exporters spell in many ways; also for nodes that come out of a subgraph later on.
NORMALISE_NODES: tuple[Pass[onnx.ModelProto], ...] = (constants_to_initializers, remove_identity, hoist_loop_invariants)
NORMALISE: tuple[Pass[onnx.ModelProto], ...] = (
    upgrade_opset,
    inline_functions,
    densify_initializers,
    complete_header,
    require_unique_names,
    drop_initializer_inputs,
    *NORMALISE_NODES,
    drop_declared_shapes,
)
# Patterns replaced by the one operator that they spell, so that they couple no channels that nothing needs coupled.
REWRITE: tuple[Pass[FoldedModel], ...] = (gather_nd_to_gather, drop_zero_state, shuffle_to_gather)


def normalise(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Normalise a model in place; tensors and nodes keep their names.

    Constants are initializers then (never nodes), initializers are no inputs, functions are inlined, Identity is gone
    wherever nothing outside can see it. Raises NetadaptError for what cannot be normalised.
    """
    return run_passes(proto, NORMALISE)


def normalise_nodes(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Normalise the nodes of the main graph alone, in place."""
    return run_passes(proto, NORMALISE_NODES)


def rewrite(folded: FoldedModel) -> PassResult[FoldedModel]:
    """Replace patterns in a folded model."""
    return run_passes(folded, REWRITE)
