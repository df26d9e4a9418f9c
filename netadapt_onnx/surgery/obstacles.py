"""What stands in the way of a cut, by operator: subgraphs that stay as they are, operators without a rule or shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import Cost, CostModel
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.nodes import domain_of, is_standard
from netadapt_onnx.graph.required_shapes import NOT, WELL, OpenTensor, proposal, shape_by_readers, shape_options, typed
from netadapt_onnx.graph.shapes import Shapes
from netadapt_onnx.graph.usual_sizes import Readers
from netadapt_onnx.surgery.groups import resize_io_of
from netadapt_onnx.surgery.rules import RULES
from netadapt_onnx.surgery.states import with_states
from netadapt_onnx.surgery.trace import Trace

LISTED = 4
REASONS = 3
# Domains of operators that onnxruntime's own optimiser writes into the files that it saves.
LAYOUT_DOMAIN = "com.microsoft.nchwc"
FUSED_DOMAIN = "com.microsoft"
UNKNOWN_SHAPE = "unknown-shape"


def notes(trace: Trace) -> tuple[str, ...]:
    """A sentence for every subgraph that stays as it is, and one for operators with weights that have no rule."""
    operators = _without_rule(trace)
    stays = f"what operators without a rule read stays: {_listed(operators)}; {_advice(operators)}"
    return (*_untraced(trace), *([stays] if operators else []))


def _untraced(trace: Trace) -> Iterator[str]:
    traced = [subgraph.name for subgraph in trace.subgraphs]
    for name, reason in trace.flat.untraced.items():
        node = name.rpartition("/")[0]
        others = [f"'{other}'" for other in traced if other.rpartition("/")[0] == node]
        rest = f"; {' and '.join(others)} is traced" if others else ""
        yield f"'{name}' stays as it is, like all it reads, because it cannot be traced at these shapes: {reason}{rest}"


def _without_rule(trace: Trace) -> Counter[str]:
    """How many nodes with weights (of onnxruntime's own layouts, all nodes) there are of operators without a rule."""
    graph = trace.flat.proto.graph
    weights = {t.name for t in graph.initializer if prod(t.dims) > 1 and trace.labels.kind(t.name) in "fV"}
    concerned = (n for n in graph.node if n.domain == LAYOUT_DOMAIN or not weights.isdisjoint(n.input))
    operators = ((domain_of(node), node.op_type) for node in concerned)
    return Counter(f"{domain}::{op}" if domain else op for domain, op in operators if (domain, op) not in RULES)


def _listed(operators: Counter[str]) -> str:
    """Operators with their counts, the most frequent first."""
    named = [f"{name} ({count})" for name, count in operators.most_common(LISTED)]
    more = [f"{len(operators) - LISTED} more"] if len(operators) > LISTED else []
    return ", ".join(named + more)


def _advice(operators: Counter[str]) -> str:
    domains = {name.rpartition("::")[0] for name in operators}
    if not domains.isdisjoint((LAYOUT_DOMAIN, FUSED_DOMAIN)):
        return "onnxruntime's optimiser writes such operators: use the file from before optimisation"
    return "spell them with operators that have one (docs/surgery.md lists them)"


def require_prunable(trace: Trace, model: Path) -> None:
    """Raise NetadaptError, with the reasons and what to do, for a model none of whose groups can be pruned."""
    if not trace.prunable:
        raise _nothing_to_prune(trace, str(model))


def cost_at(trace: Trace, cost_model: CostModel, shapes: Shapes) -> Cost:
    """What a traced model costs at these shapes. Raises NetadaptError, with the operator, where one is not known."""
    try:
        return cost_model(shapes)
    except NetadaptError as error:
        if error.code != UNKNOWN_SHAPE:
            raise
        raise unknown_shapes(trace) from error


def _nothing_to_prune(trace: Trace, path: str) -> NetadaptError:
    """Why no group of a model can be pruned, and what to do about it."""
    if any(name in trace.folded.unknown for node in trace.folded.proto.graph.node for name in node.output):
        return unknown_shapes(trace)
    operators = _without_rule(trace)
    reasons = [f"no rule for {_listed(operators)}"] if operators else []
    reasons += _untraced(trace)
    reasons += sorted({group.reason for group in trace.groups if group.reason})
    states = list(dict.fromkeys(name for group in with_states(trace).groups for name in resize_io_of(group)))
    hint = _advice(operators) if operators else "`netadapt-onnx inspect MODEL` lists the groups"
    if states:
        command = ["netadapt-onnx", "prune", path, "--ratio", "0.5", *command_options(trace, states)]
        hint = f"let the states change their shapes with it: {typed(command)}"
    why = ", ".join(reasons[:REASONS]) or "it has no layer with channels"
    return NetadaptError(f"{path}: no group of channels can be pruned: {why}", hint=hint, code="nothing-to-prune")


def command_options(trace: Trace, resize_io: Sequence[str]) -> list[str]:
    """The options by which a command sees a model as this trace does, its states to be resized."""
    choices, folded = trace.labels.choices, trace.folded
    words = shape_options(folded.requested_shapes)
    words += ["--batch-size", str(folded.batch_size)] if folded.batch_size != 1 else []
    words += ["--attention", choices.attention] if choices.attention != "heads" else []
    return words + _resized((*choices.resize_io, *resize_io))


def resize_options(names: Sequence[str]) -> str:
    """`--resize-io NAME` for each, as they are typed."""
    return typed(_resized(names))


def _resized(names: Sequence[str]) -> list[str]:
    return [word for name in names for word in ("--resize-io", name)]


def unknown_shapes(trace: Trace) -> NetadaptError:
    """The error for tensors without a known shape: the operator in front of them, and how to declare their shapes."""
    folded = trace.folded
    graph = folded.proto.graph
    missing = [name for node in graph.node for name in node.output if name in folded.unknown]
    foreign = [n for node in graph.node if not is_standard(node) for n in node.output if n in folded.unknown]
    first = missing[0] if missing else ""
    readers = Readers.of(graph)
    opened = [OpenTensor(name, shape_by_readers(readers, name)) for name in foreign]

    def fits(shapes: Shapes) -> int:
        try:
            return NOT if fold(folded.proto, dict(shapes), folded.batch_size).unknown else WELL
        except NetadaptError:
            return NOT

    hint = "give the inputs sizes that it can have, with --shape" if trace.flat.untraced else ""
    if opened:
        hint = proposal(opened, folded.proto, folded.requested_shapes, folded.batch_size, fits)
    more = f" (nor those of {len(missing) - 1} tensors behind it)" if missing[1:] else ""
    message = f"the shape of '{first}'{more} is not known: {folded.unknown.get(first, '')}"
    return NetadaptError(message, hint=hint, code=UNKNOWN_SHAPE)
