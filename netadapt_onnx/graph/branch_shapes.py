"""Shapes of what an If returns, though one of its branches may be impossible with the shapes that it would meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.graph.shapes import Spec
from netadapt_onnx.graph.subgraphs import subgraphs_of


def run_possible(node: onnx.NodeProto, feeds: Arrays, decided: bool, run: Callable[[Arrays], Arrays]) -> Arrays:
    """Outputs of a node; an If whose condition is not `decided` runs the first branch that can be run.

    Raises the NetadaptError of the last one if none can.
    """
    if decided or node.op_type != "If":
        return run(feeds)
    shape = feeds[node.input[0]].shape
    try:
        return run({**feeds, node.input[0]: np.full(shape, True)})
    except NetadaptError:
        return run({**feeds, node.input[0]: np.full(shape, False)})


def returned(
    node: onnx.NodeProto, evaluate: Callable[[onnx.GraphProto], Mapping[str, Spec]]
) -> Sequence[tuple[str, Spec]]:
    """Shapes and types of what an If returns, from the first branch that `evaluate` accepts; () if there is none."""
    for body in subgraphs_of(node) if node.op_type == "If" else ():
        try:
            inner = evaluate(body)
        except NetadaptError:
            continue
        if all(value.name in inner for value in body.output):
            pairs = zip(node.output, body.output, strict=False)
            return [(name, inner[value.name]) for name, value in pairs if name]
    return ()
