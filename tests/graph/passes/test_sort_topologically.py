"""Nodes in order, or an error that says what has none."""

from __future__ import annotations

import onnx
import pytest

import models
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.passes.sort_topologically import sort_topologically


def test_a_cycle_is_an_error() -> None:
    proto = models.plain((8,))
    first = next(n for n in proto.graph.node if n.op_type == "Conv")
    first.input[0] = "logits"
    normalise(proto)
    with pytest.raises(NetadaptError, match="cycle"):
        fold(proto)


def test_nodes_come_behind_what_they_read_and_those_in_order_stay() -> None:
    proto = models.residual()
    constants = [t.name for t in proto.graph.initializer]
    before = [n.name for n in proto.graph.node]
    assert not sort_topologically(proto, constants).changed
    assert [n.name for n in proto.graph.node] == before
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert sort_topologically(proto, constants).changed
    available = {*constants, *(v.name for v in proto.graph.input)}
    for node in proto.graph.node:
        assert available.issuperset(node.input)
        available.update(node.output)


def test_a_tensor_that_nothing_produces_is_named() -> None:
    proto = models.plain((8,))
    with pytest.raises(NetadaptError, match=r"nothing produces tensor 'conv1\.weight'"):
        sort_topologically(proto, [t.name for t in proto.graph.initializer if t.name != "conv1.weight"])
