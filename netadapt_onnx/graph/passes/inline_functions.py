"""A model's own functions, inlined. Ten that call each other twice are a thousand nodes; thirty, a billion.

How many nodes and bytes come of it is counted before any is written, without recursion: a chain of functions may be
as long as the file allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import onnx
import onnx.inliner

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import all_nodes
from netadapt_onnx.graph.passes.result import PassResult
from netadapt_onnx.graph.runtime import PROTOBUF_LIMIT
from netadapt_onnx.graph.validity import require_valid_nodes

# The largest public models have some ten thousand nodes.
MOST_NODES = 1_000_000
# ONNX's inliner and checker refuse more than 100 levels.
DEEPEST = 99

Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Size:
    """What a list of nodes comes to once it is inlined: nodes, bytes, and how deep its calls go."""

    nodes: int
    size_bytes: int
    depth: int


def inline_functions(proto: onnx.ModelProto) -> PassResult[onnx.ModelProto]:
    """Replace the calls of a model's functions by their nodes, in place, and check those nodes.

    Raises NetadaptError for functions that call themselves, of which far too many nodes would come, or whose nodes are
    not valid with the attributes that they get.
    """
    if not proto.functions:
        return PassResult(proto, False)
    _refuse_bombs(proto)
    proto.CopyFrom(onnx.inliner.inline_local_functions(proto))
    require_valid_nodes(proto)
    return PassResult(proto, True)


def _refuse_bombs(proto: onnx.ModelProto) -> None:
    functions: dict[Key, onnx.FunctionProto] = {(f.domain, f.name, f.overload): f for f in proto.functions}
    calls = {key: _calls(function.node, functions.keys()) for key, function in functions.items()}
    sizes: dict[Key, _Size] = {}
    try:
        for key in TopologicalSorter(calls).static_order():
            sizes[key] = _inlined(functions[key].node, functions[key].ByteSize(), calls[key], sizes)
    except CycleError as error:
        name = "::".join(filter(None, error.args[1][0][:2]))
        raise NetadaptError(f"the function {name} calls itself", code="not-onnx") from error
    total = _inlined(proto.graph.node, 0, _calls(proto.graph.node, functions.keys()), sizes)
    why = ""
    if total.nodes > MOST_NODES or total.size_bytes > PROTOBUF_LIMIT:
        size = f"{total.nodes:.3g} nodes of {total.size_bytes:.3g} bytes"
        why = f"come to {size} when inlined, more than {MOST_NODES:.3g} nodes or 2 GiB"
    elif total.depth > DEEPEST:
        why = f"call each other {total.depth} levels deep, more than {DEEPEST}"
    if why:
        raise NetadaptError(f"the model's functions {why}", hint="export it without functions", code="too-large")


def _calls(nodes: Iterable[onnx.NodeProto], functions: Set[Key]) -> Counter[Key]:
    """How often each function is called, in bodies of loops and branches as well."""
    keys = ((node.domain, node.op_type, node.overload) for node in all_nodes(nodes))
    return Counter(key for key in keys if key in functions)


def _inlined(nodes: Iterable[onnx.NodeProto], size_bytes: int, calls: Counter[Key], sizes: dict[Key, _Size]) -> _Size:
    return _Size(
        sum(1 for _ in all_nodes(nodes)) + sum(times * sizes[key].nodes for key, times in calls.items()),
        size_bytes + sum(times * sizes[key].size_bytes for key, times in calls.items()),
        1 + max((sizes[key].depth for key in calls), default=0),
    )
