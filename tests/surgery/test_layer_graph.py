"""A network as its layers, joins and the data between them."""

from __future__ import annotations

from pathlib import Path

import onnx

from models import Builder, concatenated, custom, plain, residual
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.surgery.layer_graph import LayerGraph, LayerNode, layer_graph
from netadapt_onnx.surgery.trace import trace_model


def graph_of(proto: onnx.ModelProto, folder: Path) -> LayerGraph:
    return layer_graph(trace_model(load(save(proto, folder / "model.onnx"))))


def edges_by_name(graph: LayerGraph) -> set[tuple[str, str]]:
    return {(graph.nodes[a].name, graph.nodes[b].name) for a, b in graph.edges}


def by_name(graph: LayerGraph) -> dict[str, LayerNode]:
    return {node.name: node for node in graph.nodes}


def test_a_chain_is_its_layers_without_what_lies_between(tmp_path: Path) -> None:
    graph = graph_of(plain((4, 8)), tmp_path)
    assert [(node.kind, node.name, node.channels) for node in graph.nodes] == [
        ("input", "image", None),
        ("layer", "conv1", 4),
        ("layer", "conv2", 8),
        ("layer", "fc1", 10),
        ("output", "logits", None),
    ]
    assert edges_by_name(graph) == {("image", "conv1"), ("conv1", "conv2"), ("conv2", "fc1"), ("fc1", "logits")}


def test_streams_join_in_a_node_of_its_own(tmp_path: Path) -> None:
    graph = graph_of(residual(), tmp_path)
    joins = [node for node in graph.nodes if node.kind == "join"]
    assert joins and all(node.op == "Add" for node in joins)
    edges = edges_by_name(graph)
    for join in joins:
        assert len([edge for edge in edges if edge[1] == join.name]) == 2
        assert len(join.groups) == 1  # the sum ties what it adds


def test_a_layer_counts_its_channels_by_group_and_says_why_it_stays(tmp_path: Path) -> None:
    nodes = by_name(graph_of(plain((4, 8)), tmp_path))
    assert nodes["conv1"].groups == (("conv1", 4),)
    assert nodes["conv1"].pinned is None
    assert nodes["fc1"].pinned == "reaches graph output 'logits'"
    assert (nodes["conv1"].params, nodes["conv1"].weight) == (4 * 3 * 9, (4, 3, 3, 3))


def test_a_layer_may_hold_several_groups(tmp_path: Path) -> None:
    """A sum that reads half of a layer ties that half alone."""
    b = Builder()
    wide, narrow = b.conv("image", 3, 8, name="wide"), b.conv("image", 3, 4, name="narrow")
    b.constant("split", [4, 4])
    b.nodes.append(onnx.helper.make_node("Split", [wide, "split"], ["left", "right"], name="split", axis=1))
    total = b.node("Add", ["left", narrow], name="total")
    b.conv(b.node("Concat", [total, "right"], name="both", axis=1), 8, 2, name="last")
    proto = b.model({"image": (1, 3, 8, 8)}, {"last_out": (1, 2, 8, 8)})
    nodes = by_name(graph_of(proto, tmp_path))
    assert sorted(count for _, count in nodes["wide"].groups) == [4, 4]
    assert len(nodes["narrow"].groups) == 1


def test_every_edge_leads_onwards_and_every_layer_is_reached(tmp_path: Path) -> None:
    graph = graph_of(concatenated(), tmp_path)
    assert all(a < b for a, b in graph.edges)
    reached = {b for _, b in graph.edges}
    assert {i for i, node in enumerate(graph.nodes) if node.kind != "input"} == reached


def test_an_operator_without_a_rule_hides_nothing(tmp_path: Path) -> None:
    onnx.save(custom(), tmp_path / "model.onnx")
    graph = layer_graph(trace_model(load(tmp_path / "model.onnx")))
    assert any(node.pinned for node in graph.nodes if node.kind == "layer")
