"""Networks whose residual branches differ in what they add."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.surgery.residual_branches import find_branches
from netadapt_onnx.surgery.trace import trace


def quiet_branch(images: np.ndarray | None = None) -> onnx.ModelProto:
    """The first residual branch adds next to nothing.

    Args:
        images: What the model tells classes apart on: its outputs are standardised over them, so that it is not always
            the same class that wins.
    """
    proto = models.residual(16, size=8)
    normalise(proto)
    traced = trace(fold(proto))
    first = find_branches(traced)[0]
    last = [n for n in proto.graph.node if n.op_type == "BatchNormalization" and n.name in first.nodes][-1]
    for tensor in proto.graph.initializer:
        if tensor.name in last.input[1:3]:
            tensor.CopyFrom(numpy_helper.from_array(1e-4 * numpy_helper.to_array(tensor), tensor.name))
    if images is not None:
        _standardise(proto, images)
    return proto


def _standardise(proto: onnx.ModelProto, images: np.ndarray) -> None:
    """Scale and shift the outputs of the last layer to mean 0 and variance 1 over the images."""
    logits = run(session(proto), {"image": images})["logits"]
    last = next(node for node in proto.graph.node if node.output[0] == proto.graph.output[0].name)
    weight, bias = (next(t for t in proto.graph.initializer if t.name == name) for name in last.input[1:3])
    std = logits.std(axis=0)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) / std[:, None], weight.name))
    shifted = (numpy_helper.to_array(bias) - logits.mean(axis=0)) / std
    bias.CopyFrom(numpy_helper.from_array(shifted, bias.name))
