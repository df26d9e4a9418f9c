"""BatchNorm that an export folded away, given back for training and folded again; and running statistics re-estimated.

Without BatchNorm fine-tuning loses 3-6 points and stands a tenth of the learning rate (measured); with one that is an
exact identity at first, or has the uncut model's statistics, it trains as if the export had kept it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.evaluate import batch_size, fixed_batch
from netadapt_onnx.graph.nodes import replace_all
from netadapt_onnx.graph.runtime import run, session

SUFFIX = "/netadapt_batchnorm"
EPSILON = 1e-5
FIRST_OPSET = 7  # BatchNormalization as it is today, without a mode attribute
REESTIMATION_BATCH = 128
_BIAS = ".netadapt_bias"
_PARTS = ("weight", "bias", "running_mean", "running_var")
# Where at least this share of the convolutions kept their BatchNorm, the rest were meant to have none.
_KEPT_SHARE = 0.5
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"}


def unfold(proto: onnx.ModelProto, calibration: Split, uncut: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """A copy in which every convolution that lost its BatchNorm has one that changes no output; else `proto` itself.

    gamma = sqrt(var + eps) and beta = mean of the layer's own output on `calibration`, which are the running
    statistics too; a float16 layer's BatchNorm is float32, for training only. Unchanged: graphs that kept BatchNorm,
    layers that only outputs follow, shared weights, and outputs of one position per sample.

    Where `proto` is `uncut` less some channels and no reconstruction made up for them, gamma and beta are those of the
    uncut model's layers, and running statistics are estimated anew: as if the export had kept BatchNorm. That does
    change outputs, towards those of the uncut model.

    Args:
        proto: The model, normalised.
        calibration: Samples that statistics are estimated on.
        uncut: The model that `proto` was cut from, if any.
    """
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    chosen = _bare_convolutions(proto.graph) if opset >= FIRST_OPSET else []
    if not chosen:
        return proto
    names = [node.output[0] for node in chosen]
    kept = None if uncut is None else _kept_channels(proto, uncut, names)
    statistics = _statistics(proto if kept is None or uncut is None else uncut, names, calibration)
    if kept is not None:
        statistics = {n: (mean[kept[n]], variance[kept[n]]) for n, (mean, variance) in statistics.items()}
    unfolded = onnx.ModelProto()
    unfolded.CopyFrom(proto)
    nodes = []
    for node in unfolded.graph.node:
        nodes.append(node)
        if node.op_type != "Conv" or node.output[0] not in statistics:
            continue
        output = node.output[0]
        prefix = (node.name or output) + SUFFIX
        node.output[0] = f"{prefix}/input"
        parts = [f"{prefix}.{part}" for part in _PARTS]
        nodes.append(
            onnx.helper.make_node("BatchNormalization", [node.output[0], *parts], [output], prefix, epsilon=EPSILON)
        )
        mean, variance = (value.astype(np.float32) for value in statistics[output])
        gamma = np.sqrt(variance.astype(np.float64) + EPSILON).astype(np.float32)
        for name, value in zip(parts, (gamma, mean, mean, variance), strict=True):
            unfolded.graph.initializer.append(numpy_helper.from_array(value, name))
    replace_all(unfolded.graph.node, nodes)
    return unfolded if kept is None else reestimate(unfolded, calibration)


def _kept_channels(
    cut: onnx.ModelProto, uncut: onnx.ModelProto, outputs: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """Which channels of `uncut` the convolutions with these outputs still have; None if `cut` is no plain cut of it.

    Biases decide: a cut leaves those of its channels to the bit and in order, training and reconstruction change them.
    """
    before, after = _biases(uncut), _biases(cut)
    channels: dict[str, np.ndarray] = {}
    for name in outputs:
        if name not in before or name not in after:
            return None
        places = {value: index for index, value in enumerate(before[name].tolist())}
        indices = np.array([places.get(value, -1) for value in after[name].tolist()])
        if len(places) < len(before[name]) or (indices < 0).any() or (np.diff(indices) <= 0).any():
            return None
        channels[name] = indices
    return channels if any(len(channels[name]) < len(before[name]) for name in outputs) else None


def _biases(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Biases of convolutions by their output."""
    tensors = {t.name: t for t in proto.graph.initializer}
    convolutions = (n for n in proto.graph.node if n.op_type == "Conv" and len(n.input) > 2 and n.input[2] in tensors)
    return {node.output[0]: numpy_helper.to_array(tensors[node.input[2]]) for node in convolutions}


def fold(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the BatchNorms that `unfold` added are folded into their convolutions; else `proto` itself."""
    added = {node.input[0]: node for node in proto.graph.node if _is_added(node)}
    if not added:
        return proto
    folded = onnx.ModelProto()
    folded.CopyFrom(proto)
    tensors = {t.name: t for t in folded.graph.initializer}
    nodes, dropped = [], set()
    for node in folded.graph.node:
        if _is_added(node):
            dropped.update(node.input[1:])
            continue
        nodes.append(node)
        if not node.output or node.output[0] not in added:
            continue
        norm = added[node.output[0]]
        gamma, beta, mean, variance = (_value(tensors[name]) for name in norm.input[1:5])
        scale = gamma / np.sqrt(variance + EPSILON)
        weight = tensors[node.input[1]]
        _set(weight, _value(weight) * scale.reshape(-1, *(1 for _ in weight.dims[1:])))
        if len(node.input) > 2 and node.input[2]:
            bias = tensors[node.input[2]]
            _set(bias, (_value(bias) - mean) * scale + beta)
        else:
            bias = folded.graph.initializer.add()
            bias.name = f"{node.input[1]}{_BIAS}"
            bias.data_type = weight.data_type
            _set(bias, beta - mean * scale)
            del node.input[2:]
            node.input.append(bias.name)
        node.output[0] = norm.output[0]
    kept = [t for t in folded.graph.initializer if t.name not in dropped]
    copies = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
    del folded.graph.initializer[:]
    folded.graph.initializer.extend(copies)
    replace_all(folded.graph.node, nodes)
    return folded


def reestimate(proto: onnx.ModelProto, calibration: Split) -> onnx.ModelProto:
    """A copy whose BatchNorms hold the statistics of their inputs on `calibration`; else `proto` itself.

    Layer by layer, each behind those already corrected, as training mode would see them. For cuts that were not
    reconstructed: after a reconstruction it hurts (measured, 73.5 to 71.7 points).

    Args:
        proto: The model, normalised.
        calibration: Samples that statistics are estimated on.
    """
    import torch

    from netadapt_onnx.training.memory import only_batch
    from netadapt_onnx.training.ops.normalisation import BATCHNORM_MOMENTUM
    from netadapt_onnx.training.replicas import one_thread, pieces_of, tensors
    from netadapt_onnx.training.torch_graph import TorchGraph

    graph = TorchGraph(proto)
    if not graph.statistics:
        return proto
    only = only_batch(graph, calibration)
    rows = np.arange(len(calibration))
    batches = (
        pieces_of(rows, only) if only else np.split(rows, range(REESTIMATION_BATCH, len(rows), REESTIMATION_BATCH))
    )
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in graph.statistics.items()}
    count = 0
    with one_thread(), torch.no_grad():
        graph.train()
        for index in batches:
            inputs, samples = calibration.batch(index), len(index)
            if count and not only and samples < REESTIMATION_BATCH // 4:
                continue  # too few for statistics of their own
            before = {name: value.clone() for name, value in graph.statistics.items()}
            graph(tensors(inputs))
            for name, value in graph.statistics.items():
                # One update moves a statistic a fixed share of the way: the rest of the way is the batch's own value.
                moved = (value - before[name]).double() / BATCHNORM_MOMENTUM + before[name].double()
                total[name] += samples * moved
            count += samples
        for name, value in graph.statistics.items():
            value.copy_(total[name] / count)
    return graph.write_back(proto)


def _bare_convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Convolutions that get a BatchNorm."""
    tensors = {t.name: t for t in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    convolutions = [n for n in graph.node if n.op_type == "Conv" and n.input[1] in tensors]
    bare = [n for n in convolutions if not any(r.op_type == "BatchNormalization" for r in readers.get(n.output[0], []))]
    if len(bare) <= (1 - _KEPT_SHARE) * len(convolutions):
        return []
    alone = [
        n
        for n in bare
        if len(readers[n.input[1]]) == 1
        and (len(n.input) < 3 or not n.input[2] or (n.input[2] in tensors and len(readers[n.input[2]]) == 1))
        and tensors[n.input[1]].data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        and n.output[0] not in outputs
    ]
    ahead = _before_a_layer(graph)
    return [n for n in alone if n.output[0] in ahead]


def _before_a_layer(graph: onnx.GraphProto) -> set[str]:
    """Tensors from which another layer can be reached: what comes after them is not yet the model's output."""
    tensors: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in _LAYERS or not tensors.isdisjoint(node.output):
            tensors.update(node.input)
    return tensors


def _statistics(
    proto: onnx.ModelProto, names: list[str], calibration: Split
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance per channel of some tensors; those of one position per sample are left out."""
    active = session(proto, outputs=names)
    sums: dict[str, np.ndarray] = {}
    squares: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for inputs in _full_batches(proto, calibration):
        for name, value in run(active, inputs, names).items():
            positions = value.shape[0] * int(np.prod(value.shape[2:]))
            if positions == value.shape[0]:
                continue
            flat = np.moveaxis(value, 1, 0).reshape(value.shape[1], -1).astype(np.float64)
            sums[name] = sums.get(name, 0.0) + flat.sum(1)
            squares[name] = squares.get(name, 0.0) + np.square(flat).sum(1)
            counts[name] = counts.get(name, 0) + positions
    result = {}
    for name, total in sums.items():
        mean = total / counts[name]
        result[name] = (mean, np.maximum(squares[name] / counts[name] - mean**2, 0.0))
    return result


def _full_batches(proto: onnx.ModelProto, split: Split) -> Iterator[dict[str, np.ndarray]]:
    """Batches that a model with a fixed batch takes too; samples that do not fill one are left out."""
    size = batch_size(proto, split)
    size = size if fixed_batch(proto, split.layout) else min(size, len(split))
    for start in range(0, max(len(split) - size + 1, 1), size):
        yield split.batch(np.minimum(np.arange(start, start + size), len(split) - 1))


def _is_added(node: onnx.NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and node.name.endswith(SUFFIX)


def _value(tensor: onnx.TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor).astype(np.float64)


def _set(tensor: onnx.TensorProto, value: np.ndarray) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(value.astype(dtype), tensor.name))
