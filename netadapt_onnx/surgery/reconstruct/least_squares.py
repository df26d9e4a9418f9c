"""Ridge least squares: after channels went, solve each consumer's remaining weights so that its output stays.

The target is a layer's own output in the *original* model, its inputs are sampled activations (`gram.py`). There are
two ways. `reconstruct` solves any cut of a model from one set of Gram matrices, which makes proposals cheap; layers
behind others that it solves see inputs from before the cut. `reconstruct_in_order` solves one cut layer by layer, each
with its inputs in the model whose earlier layers are cut and solved already, as the result will have them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.common.progress import counting
from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.graph.nodes import reads
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery.calibration import PartialRuns
from netadapt_onnx.surgery.cut import Cut, KeptIndices
from netadapt_onnx.surgery.reconstruct.bias import bias_target, set_bias
from netadapt_onnx.surgery.reconstruct.gram import LARGEST_SYSTEM, GramMatrices, GramSums, Targets
from netadapt_onnx.surgery.reconstruct.layers import Linear, linear_layers
from netadapt_onnx.surgery.reconstruct.ridge import RIDGE, best_ridge, ridge_solution
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace

# Stands for the layer in front of a node that reads another tensor than in the original; no layer is called so.
REWIRED = ""


def reconstruct(
    trace: Trace, keep: KeptIndices, matrices: Mapping[str, GramMatrices], rewired: Collection[str] = ()
) -> onnx.ModelProto:
    """Cut the model and solve every layer that lost inputs: min |X W + b - Y|^2 + lambda |W - W0|^2 per conv group.

    W0 are the sliced weights, lambda is 1e-3 of the Gram matrix's mean diagonal, the bias b is not penalised and goes
    where it costs nothing (`bias.py`).

    Args:
        trace: The model.
        keep: The channels that each group keeps.
        matrices: The Gram matrices of its layers; those without keep their sliced weights.
        rewired: First outputs of nodes that read other tensors than in the original: the first layers behind them are
            solved as well.
    """
    cut = trace.cut(keep)
    model = resize(trace, keep)
    first = _first_behind(trace, rewired)
    for layer in linear_layers(trace):
        concerned = layer.output in matrices and (layer.output in first or layer.loses_inputs(cut))
        if concerned and layer.owns_weight(model):
            _solve(model, layer, _sliced(matrices[layer.output], layer, cut))
    return model


def reconstruct_in_order(
    trace: Trace,
    keep: KeptIndices,
    inputs: Arrays,
    targets: Targets,
    rewired: Collection[str] = (),
    *,
    only_cut: bool = False,
) -> onnx.ModelProto:
    """As `reconstruct`, layer by layer in topological order, each with its inputs in the model solved so far.

    Layers that see a changed input but lost none of it are solved too: they make up for what is left of the error in
    front of them, as do those behind `rewired` nodes.

    Args:
        trace: The model.
        keep: The channels that each group keeps.
        inputs: The calibration inputs that `targets` were made with.
        targets: What the original's layers put out.
        rewired: First outputs of nodes that read other tensors than in the original.
        only_cut: Whether no layer is solved but those that lost inputs.
    """
    cut = trace.cut(keep)
    model = resize(trace, keep)
    rounds = _rounds(trace, model, cut, targets, None if only_cut else rewired)
    partial = PartialRuns(trace, inputs, targets.run_size)
    for number, layers in enumerate(counting("solving layers", rounds)):
        later = {layer.output for after in rounds[number:] for layer in after}
        sums = {layer.output: GramSums(layer, targets, _outputs_after(layer, cut)) for layer in layers}
        for block, arrays in partial.advance(model, _ahead_of(model, later)):
            for layer in layers:
                sums[layer.output].add(block, arrays[layer.input])
        for layer in layers:
            _solve(model, layer, sums[layer.output].matrices(), sums[layer.output].folds())
    return model


def kept_outputs(trace: Trace, keep: KeptIndices, before: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Which output channels of the original each layer has after a cut.

    Args:
        trace: The model that is cut.
        keep: The channels that each group keeps.
        before: The same for `trace` itself, where it is not the original.

    Returns:
        By layer the indices of the original's channels, ascending.
    """
    cut = trace.cut(keep)
    before = before or {}
    result: dict[str, Array] = {}
    for layer in linear_layers(trace):
        kept = np.flatnonzero(cut.kept(layer.output, layer.channel_axis))
        result[layer.output] = before[layer.output][kept] if layer.output in before else kept
    return result


def _first_behind(trace: Trace, rewired: Collection[str]) -> set[str]:
    """Outputs of the layers that see what rewired nodes compute, without another layer between."""
    layers = {layer.output for layer in linear_layers(trace)}
    changed: set[str] = set()
    first: set[str] = set()
    for node in trace.folded.proto.graph.node if rewired else ():
        if node.output[0] in rewired or not changed.isdisjoint(reads(node)):
            if node.output[0] in layers:
                first.add(node.output[0])
            else:
                changed.update(node.output)
    return first


def _rounds(
    trace: Trace, model: onnx.ModelProto, cut: Cut, targets: Targets, rewired: Collection[str] | None
) -> list[list[Linear]]:
    """The layers to solve, in order; those that do not follow one another share a round.

    They are those that lost inputs, and unless `rewired` is None those that see changed ones.
    """
    layers = {layer.output: layer for layer in linear_layers(trace)}
    behind: dict[str, frozenset[str]] = {}  # by tensor: the layers solved in front of it
    rounds: list[list[Linear]] = []
    for node in model.graph.node:
        ahead = frozenset[str]().union(*(behind.get(name, frozenset()) for name in reads(node)))
        if node.output[0] in (rewired or ()):
            ahead |= {REWIRED}
        layer = layers.get(node.output[0])
        concerned = layer is not None and (layer.loses_inputs(cut) or (rewired is not None and bool(ahead)))
        if layer is not None and concerned and _solvable(layer, model, cut, targets):
            if not rounds or any(other.output in ahead for other in rounds[-1]):
                rounds.append([])
            rounds[-1].append(layer)
            ahead |= {layer.output}
        for name in node.output:
            behind[name] = ahead
    return rounds


def _solvable(layer: Linear, model: onnx.ModelProto, cut: Cut, targets: Targets) -> bool:
    has_target = layer.output in targets.outputs and layer.inputs_per_group <= LARGEST_SYSTEM
    return has_target and layer.owns_weight(model) and layer.keeps_every_group(cut)


def _ahead_of(model: onnx.ModelProto, later: set[str]) -> set[int]:
    """The nodes that neither produce one of the tensors `later` nor follow one."""
    moving, front = set(later), set()
    for index, node in enumerate(model.graph.node):
        if moving.isdisjoint(node.output) and moving.isdisjoint(reads(node)):
            front.add(index)
        else:
            moving.update(node.output)
    return front


def _outputs_after(layer: Linear, cut: Cut) -> Array | None:
    """The output channels that a cut keeps; None for all."""
    kept = cut.kept(layer.output, layer.channel_axis)
    return None if kept.all() else np.flatnonzero(kept)


def _sliced(matrices: GramMatrices, layer: Linear, cut: Cut) -> GramMatrices:
    """The matrices of the inputs and outputs that a cut keeps."""
    features = layer.kept_features(cut)
    outputs = cut.kept(layer.output, layer.channel_axis).reshape(layer.groups, -1)
    pairs = list(enumerate(zip(features, outputs, strict=True)))
    return GramMatrices(
        np.stack([matrices.gram[g][np.ix_(f, f)] for g, (f, _) in pairs]),
        np.stack([matrices.cross[g][np.ix_(f, o)] for g, (f, o) in pairs]),
        np.stack([matrices.mean_in[g][f] for g, (f, _) in pairs]),
        np.stack([matrices.mean_out[g][o] for g, (_, o) in pairs]),
    )


def _solve(model: onnx.ModelProto, layer: Linear, matrices: GramMatrices, folds: Sequence[GramMatrices] = ()) -> None:
    """Put a layer's least-squares weights into `model`, in place.

    `matrices` are those of what it has after the cut, `folds` the same of either half of the images.
    """
    if not matrices.gram.shape[1] or not matrices.cross.shape[2]:
        return
    tensor = next(t for t in model.graph.initializer if t.name == layer.weight)
    stored = numpy_helper.to_array(tensor)
    start, target = layer.matrix(stored), bias_target(model, layer)
    if target is None:  # nowhere to put a bias: fit through the origin
        matrices, folds = matrices.about_origin(), [fold.about_origin() for fold in folds]
    ridge = best_ridge(folds[0], folds[1], start) if len(folds) == 2 else RIDGE
    weights = ridge_solution(matrices, start, ridge)
    if not np.isfinite(weights).all():
        return
    values = layer.from_matrix(weights, stored.shape)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(stored.dtype), layer.weight))
    if target is not None:
        bias = matrices.mean_out - (matrices.mean_in[:, None] @ weights)[:, 0]
        set_bias(model, target, bias.reshape(-1))
