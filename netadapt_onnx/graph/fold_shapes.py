"""Fold a model: its shape arithmetic becomes constants, and the shape of every tensor is known.

The network itself is not run for it (`shape_inference.py`). What depends on the batch size stays dynamic
(`dynamic_dims.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.dynamic_dims import find_size_dependence, fix_dims
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.inputs import dynamic_batch_inputs, input_specs
from netadapt_onnx.graph.nodes import is_standard
from netadapt_onnx.graph.passes.fold_constants import fold_constants
from netadapt_onnx.graph.passes.inline_if import inline_if
from netadapt_onnx.graph.passes.pipeline import normalise_nodes
from netadapt_onnx.graph.passes.sort_topologically import sort_topologically
from netadapt_onnx.graph.required_shapes import declare_outputs, refuse_open, refuse_other_shapes
from netadapt_onnx.graph.runtime import lacks_operator, session
from netadapt_onnx.graph.shape_evaluator import ShapeEvaluator
from netadapt_onnx.graph.shape_inference import Evaluation
from netadapt_onnx.graph.shapes import Shapes, Specs
from netadapt_onnx.graph.single_node import SingleNodes
from netadapt_onnx.graph.weightless import weights_as_inputs, without_weights


def fold(
    proto: onnx.ModelProto,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    *,
    in_place: bool = False,
    loops: bool = True,
    inner: bool = False,
) -> FoldedModel:
    """Fold a normalised model.

    Args:
        proto: the model; with `in_place` it is the one that is folded, which spares a copy of its weights.
        shapes: those of inputs with dynamic axes beyond the first, and of outputs of operators outside ONNX.
        batch_size: the length of dynamic first axes in the shapes that are returned.
        in_place: whether `proto` is changed.
        loops: whether bodies of loops and branches are run for their shapes.
        inner: whether it is the body of a model that onnxruntime has loaded without its inputs' shapes.

    Raises:
        NetadaptError: for a missing shape, and where shapes or types contradict each other or onnxruntime refuses the
            graph. Operators that it merely lacks are no obstacle.
    """
    requested = dict(shapes or {})
    evaluator, input_shapes = _prepare(proto, requested, in_place=in_place, loops=loops)
    refuse_open(proto, input_shapes, batch_size, partial(evaluator.fit, batch_size=batch_size) if loops else None)
    specs = input_specs(proto, input_shapes, batch_size)
    evaluation = _inline_decided_branches(evaluator, specs, batch_size)
    dependence = find_size_dependence(evaluator, evaluation, specs, batch_size)
    folded = proto if in_place else without_weights(evaluator.proto)
    fold_constants(folded, evaluator.proto.graph, evaluator.initializers, evaluation, dependence)
    fix_dims(folded.graph, dependence.fixed, specs)
    refuse_other_shapes(requested, evaluation.tensor_specs)
    produced = {name for node in folded.graph.node for name in node.output if name}
    tensor_specs: Specs = evaluation.tensor_specs
    if not produced <= tensor_specs.keys() | evaluation.opaque.keys():  # nodes that folding has added
        constants = {t.name: t for t in folded.graph.initializer}
        added = ShapeEvaluator(folded, constants, evaluator.single_nodes).at(specs, batch_size)
        tensor_specs = {**tensor_specs, **added.tensor_specs}
    foreign = {name for node in folded.graph.node if not is_standard(node) for name in node.output if name}
    present = (produced | {t.name for t in folded.graph.initializer} | specs.keys()) & tensor_specs.keys()
    return FoldedModel(
        folded,
        shapes={name: tensor_specs[name][0] for name in present},
        dtypes={name: tensor_specs[name][1] for name in present},
        specs=specs,
        batch_size=batch_size,
        unrunnable=_missing_operator(folded, evaluation.opaque, inner),
        assumed=tuple(evaluation.assumed),
        sampled=frozenset(evaluation.uncertain),
        fixed=tuple(dependence.fixed),
        unknown={name: evaluation.opaque.get(name, "") for name in produced if name not in tensor_specs},
        requested_shapes=requested,
        unrun=frozenset(evaluation.failed | (evaluation.opaque.keys() & foreign)),
        unfinished=tuple(evaluation.unfinished),
    )


def follows_batch(folded: FoldedModel) -> bool:
    """Whether a model with a dynamic batch can have another one: constants inside may depend on the size it was
    exported with.
    """
    proto = folded.proto
    initializers = {t.name: t for t in proto.graph.initializer}
    evaluator = ShapeEvaluator(without_weights(proto), initializers, SingleNodes(proto.opset_import, loops=False))
    other = evaluator.at_next_batch(folded.specs, dynamic_batch_inputs(proto), folded.batch_size)
    if other is None:
        return False
    specs = other.tensor_specs
    outputs = [value.name for value in proto.graph.output if value.name in folded.shapes and value.name in specs]
    return not outputs or any(specs[name][0] != folded.shapes[name] for name in outputs)


def _prepare(
    proto: onnx.ModelProto, requested: Shapes, *, in_place: bool, loops: bool
) -> tuple[ShapeEvaluator, dict[str, tuple[int, ...]]]:
    """A sorted copy of a graph without its weights, to be evaluated, and the requested shapes of inputs."""
    work = without_weights(proto)
    initializers = {t.name: t for t in proto.graph.initializer}
    for graph in (work.graph, proto.graph) if in_place else (work.graph,):
        input_shapes = declare_outputs(graph, requested, initializers)
    sort_topologically(work, initializers)
    return ShapeEvaluator(work, initializers, SingleNodes(proto.opset_import, loops=loops)), input_shapes


def _inline_decided_branches(evaluator: ShapeEvaluator, specs: Specs, batch_size: int) -> Evaluation:
    """Evaluate a graph; as long as conditions of If nodes have values, inline those and evaluate it again."""
    work, initializers = evaluator.proto, evaluator.initializers
    evaluation = evaluator.at(specs, batch_size)
    while inline_if(work, evaluator.conditions(evaluation)).changed:
        normalise_nodes(work)
        initializers |= {t.name: t for t in work.graph.initializer}
        sort_topologically(work, initializers)
        evaluation = evaluator.at(specs, batch_size)
    return evaluation


def _missing_operator(proto: onnx.ModelProto, opaque: Mapping[str, str], inner: bool) -> str | None:
    """What onnxruntime lacks to run a graph, which it gets without the weights; raises if the graph is wrong."""
    light = weights_as_inputs(proto)
    for value in light.graph.input if inner else ():
        value.type.tensor_type.ClearField("shape")
    try:
        session(light, optimise=False)
    except NetadaptError as error:
        if not lacks_operator(error):
            raise
        match = re.search(r"Could not find an implementation for (\w+)\S* node with name '(.*?)'", str(error.__cause__))
        reason = f"onnxruntime has no {match[1]} ('{match[2]}')" if match else error.message
        return next(iter(opaque.values()), reason)
    return None
