"""What stands in the way of a cut, by operator: bodies that stay as they are, operators without a rule."""

from __future__ import annotations

from collections import Counter
from math import prod

from netadapt_onnx.surgery.rules import RULES
from netadapt_onnx.surgery.trace import Trace

LISTED = 4
# Domains of operators that onnxruntime's own optimiser writes into the files that it saves.
LAYOUT_DOMAIN = "com.microsoft.nchwc"
FUSED_DOMAIN = "com.microsoft"


def untraced_notes(trace: Trace) -> tuple[str, ...]:
    """A line for every subgraph that stays as it is, which names those of the same node that are traced."""
    traced = [body.name for body in trace.bodies]
    notes = []
    for name, reason in trace.flat.untraced.items():
        node = name.rpartition("/")[0]
        others = [f"'{other}'" for other in traced if other.rpartition("/")[0] == node]
        rest = f"; {' and '.join(others)} is traced" if others else ""
        notes.append(
            f"'{name}' stays as it is, with what it reads, for it cannot be traced at these shapes: {reason}{rest}"
        )
    return tuple(notes)


def without_rule(trace: Trace) -> Counter[str]:
    """How many nodes with weights there are of every operator that has no rule."""
    graph = trace.flat.proto.graph
    weights = {t.name for t in graph.initializer if prod(t.dims) > 1 and trace.labels.kind(t.name) in "fV"}
    found: Counter[str] = Counter()
    for node in graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) not in RULES and not weights.isdisjoint(node.input):
            found[f"{domain}::{node.op_type}" if domain else node.op_type] += 1
    return found


def listed(operators: Counter[str]) -> str:
    """Operators with their counts, the most frequent first."""
    named = [f"{name} ({count})" for name, count in operators.most_common(LISTED)]
    left = len(operators) - len(named)
    return ", ".join([*named, *([f"{left} more"] if left else [])])


def advice(operators: Counter[str]) -> str:
    """What to do about operators without a rule."""
    domains = {name.rpartition("::")[0] for name in operators}
    if LAYOUT_DOMAIN in domains or FUSED_DOMAIN in domains:
        return "onnxruntime's optimiser wrote them for one machine: use the file from before optimisation"
    if "" in domains:
        return "export the layers as Conv, Gemm or MatMul"
    return f"export it without {', '.join(sorted(domains))}, as operators of ONNX"
