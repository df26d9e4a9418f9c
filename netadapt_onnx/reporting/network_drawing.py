"""Drawings of networks: their groups of channels (`inspect --graph`), and widths before and after (`diff --graph`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path

from netadapt_onnx.common import render
from netadapt_onnx.gating.matching import match_layers
from netadapt_onnx.gating.records import Layer
from netadapt_onnx.reporting.graphviz import Attributes, Drawing, write_drawing
from netadapt_onnx.surgery.layer_graph import LayerGraph, LayerNode

# ColorBrewer's Paired and Set3, light and without red.
PALETTE = ("#a6cee3", "#b2df8a", "#fdbf6f", "#cab2d6", "#8dd3c7", "#ffed6f", "#d9b48f")
ALONE, PINNED, RED = "#eef1f5", "#f4b6b0", "#b3261e"
NARROWER, WIDER, NEW, WHITE = "#8fcf8f", "#fdbf6f", "#a6cee3", "#ffffff"
GROUP_LEGEND = (
    "Layers of one colour are pruned together: their channels are one group. A striped layer has channels of several "
    "groups, a pale one is a group of its own, and a red one cannot be pruned. Rest the pointer on a layer to see why, "
    "and what it costs."
)
WIDTH_LEGEND = (
    "Output channels of each layer before and after; the bar is the share that is left. Pale layers are as wide as "
    "before, orange ones are wider, red ones are gone and blue ones are new."
)
Pair = tuple[LayerNode | None, LayerNode | None]


def draw_groups(graph: LayerGraph, file: Path, title: str) -> None:
    """Draw a network with its groups in colours. Raises NetadaptError where Graphviz cannot."""
    colours = _colours(graph.nodes)
    nodes = [_of_group(node, colours) for node in graph.nodes]
    edges = [(a, b, dict[str, object]()) for a, b in graph.edges]
    write_drawing(file, Drawing(title, GROUP_LEGEND, nodes, edges))


def draw_widths(before: LayerGraph, after: LayerGraph, file: Path, title: str) -> None:
    """Draw two networks as one with the widths of both. Raises NetadaptError where Graphviz cannot."""
    pairs = _matched(before, after)
    old, new = (_edges(graph, pairs, side) for side, graph in enumerate((before, after)))
    nodes = [_of_pair(*pair) for pair in pairs]
    edges = [(*edge, _of_edge(edge in old, edge in new)) for edge in dict.fromkeys([*old, *new])]
    write_drawing(file, Drawing(title, WIDTH_LEGEND, nodes, edges))


def _edges(graph: LayerGraph, pairs: Sequence[Pair], side: int) -> dict[tuple[int, int], None]:
    """The edges of one of two networks by the numbers of pairs."""
    number = {id(pair[side]): i for i, pair in enumerate(pairs)}
    return {(number[id(graph.nodes[a])], number[id(graph.nodes[b])]): None for a, b in graph.edges}


def _colours(nodes: Sequence[LayerNode]) -> dict[str, str]:
    """The colour of each group: one of its own where several layers can be pruned together."""
    layers = Counter(group for node in nodes if node.kind == "layer" for group, _ in node.groups)
    pinned = {group for node in nodes if node.pinned is not None for group, _ in node.groups}
    palette = cycle(PALETTE)
    return {
        group: PINNED if group in pinned else next(palette) if count > 1 else ALONE for group, count in layers.items()
    }


def _of_group(node: LayerNode, colours: Mapping[str, str]) -> Attributes:
    border = {"color": RED} if node.pinned is not None else {}
    shape = _shape(node, "" if node.channels is None else f"{node.channels} channels")
    return {**shape, **_fill(node, colours), "tooltip": _tooltip(node), **border}


def _fill(node: LayerNode, colours: Mapping[str, str]) -> dict[str, object]:
    """The colours of a node's groups, each as wide as its share of the channels."""
    if node.pinned is not None:
        return {"fillcolor": PINNED}
    if len(node.groups) < 2 or node.kind == "join":  # wedges of an ellipse would hide its name
        shared = node.groups if len(node.groups) == 1 else ()
        return {"fillcolor": next((colours.get(group, WHITE) for group, _ in shared), WHITE)}
    total = sum(count for _, count in node.groups)
    parts = ":".join(f"{colours.get(group, WHITE)};{count / total:.4f}" for group, count in node.groups)
    return {"style": "striped", "fillcolor": parts}


def _shape(node: LayerNode, detail: str = "") -> dict[str, object]:
    """The shape of a node and the words in it."""
    if node.kind == "join":
        return {"label": node.op, "shape": "ellipse", "style": "filled", "fontsize": 9}
    if node.kind != "layer":
        return {"label": f"{node.kind} {node.path}", "shape": "box", "style": "filled,rounded", "penwidth": 0.5}
    return {"label": (node.path, f"{node.op}  {detail}".rstrip()), "shape": "box", "style": "filled", "penwidth": 0.7}


def _tooltip(node: LayerNode) -> tuple[str, ...]:
    lines = [node.name]
    lines += [f"group {group}: {count} channels" for group, count in node.groups]
    if node.kind == "layer":
        lines.append(f"{render.count(node.params)} params, {render.count(node.macs)} macs")
    if node.pinned is not None:
        lines.append(f"cannot be pruned: {node.pinned}")
    return tuple(lines)


def _matched(before: LayerGraph, after: LayerGraph) -> list[Pair]:
    """The nodes of both networks in pairs; None stands where one lacks a node."""
    records = [[(_record(node), node) for node in graph.nodes] for graph in (before, after)]
    node_of = {id(record): node for side in records for record, node in side}
    pairs = match_layers(*([record for record, _ in side] for side in records))
    return [(node_of.get(id(a)), node_of.get(id(b))) for a, b in pairs]


def _record(node: LayerNode) -> Layer:
    return Layer(node.name, node.op or node.kind, node.params, node.macs, ("x".join(map(str, node.weight)),))


def _of_pair(before: LayerNode | None, after: LayerNode | None) -> Attributes:
    node = after or before
    assert node is not None
    tooltip = tuple(_costs(before, after, node))
    if before is None or after is None:
        fill = {"fillcolor": PINNED, "color": RED} if after is None else {"fillcolor": NEW}
        channels = "" if node.channels is None else f"{node.channels} channels, "
        shape = _shape(node, f"{channels}{'gone' if after is None else 'new'}")
        return {**shape, **fill, "style": "filled,dashed" if after is None else "filled", "tooltip": tooltip}
    if before.channels is None or after.channels is None or before.channels == after.channels:
        channels = "" if after.channels is None else f"{after.channels} channels"
        return {**_shape(node, channels), "fillcolor": ALONE if node.kind == "layer" else WHITE, "tooltip": tooltip}
    share = after.channels / before.channels
    shape = _shape(node, f"{before.channels} → {after.channels} channels")
    if share > 1:
        return {**shape, "fillcolor": WIDER, "tooltip": tooltip}
    bar = f"{NARROWER};{share:.3f}:{WHITE};{1 - share:.3f}"
    return {**shape, "style": "striped", "fillcolor": bar, "tooltip": tooltip}


def _costs(before: LayerNode | None, after: LayerNode | None, node: LayerNode) -> Iterator[str]:
    yield node.name
    if node.kind == "layer":
        sides = [side for side in (before, after) if side is not None]
        yield " → ".join(dict.fromkeys(f"{render.count(side.params)} params" for side in sides))
        yield " → ".join(dict.fromkeys(f"{render.count(side.macs)} macs" for side in sides))


def _of_edge(in_before: bool, in_after: bool) -> Attributes:
    if in_before and in_after:
        return {}
    return {"color": RED, "style": "dashed"} if in_before else {"color": "#1f78b4"}
