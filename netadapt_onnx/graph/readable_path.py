"""Where in its network a node stands, as people who wrote the network call it: `layer1.0.conv1`.

Exporters keep that in different places: torch's in a node's metadata, in the name of its weight or in a name made of
scopes (`/layer1/layer1.0/conv1/Conv`), others in plain names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import onnx

from netadapt_onnx.graph.nodes import node_name

# Python's list of scopes as text, outermost first; the last is the node's own name.
_SCOPES, _QUOTED = "pkg.torch.onnx.name_scopes", re.compile(r"'([^']*)'")
_WEIGHT = re.compile(r"(?P<path>[\w.]*\w)\.(?:weight|kernel|W)(?:_quantized)?")


def readable_paths(nodes: Iterable[onnx.NodeProto]) -> dict[str, str]:
    """The path of each node by its name; a node whose path others have too keeps its name.

    >>> conv = onnx.helper.make_node("Conv", ["x", "onnx::Conv_7"], ["y"], name="/layer1/layer1.0/conv1/Conv")
    >>> named_by_weight = onnx.helper.make_node("Conv", ["y", "stem.conv.weight"], ["z"], name="node_conv2d_1")
    >>> list(readable_paths([conv, named_by_weight]).values())
    ['layer1.0.conv1', 'stem.conv']
    """
    paths = {node_name(node): _path(node) for node in nodes}
    count = Counter(paths.values())
    return {name: path if count[path] == 1 else name for name, path in paths.items()}


def _path(node: onnx.NodeProto) -> str:
    scopes = _scopes(node)
    if scopes:
        return scopes[-1]
    name = node_name(node)
    if "/" in name:
        return _joined([part for part in name.split("/") if part], node.op_type) or name
    matches = (_WEIGHT.fullmatch(tensor) for tensor in node.input)
    return next((match["path"] for match in matches if match), name)


def _scopes(node: onnx.NodeProto) -> list[str]:
    """The modules that a node lies in, by torch's exporter."""
    text = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    return [scope for scope in _QUOTED.findall(text)[:-1] if scope]


def _joined(parts: list[str], operator: str) -> str:
    """Scopes joined by dots, without the operator at their end; each repeats what torch puts before its last word."""
    if parts and re.fullmatch(rf"{re.escape(operator)}(_\d+)?", parts[-1]):
        parts = parts[:-1]
    path: list[str] = []
    for part in parts:
        repeated = path and part.startswith(f"{path[-1]}.")
        path = [*path[:-1], part] if repeated else [*path, part]
    return ".".join(path)
