"""Inputs that list axes, sizes or positions are vectors: onnxruntime refuses others, no earlier than when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.model import node_name
from netadapt_onnx.validity import STANDARD

Known = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]

# By operator the slots of inputs of which ONNX's shape inference does not ask whether they have one axis.
VECTORS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 3),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}


def require_vectors(node: onnx.NodeProto, known: Known) -> None:
    """Raise NetadaptError (`unrunnable`) if an input that lists numbers has another number of axes than one."""
    if node.domain not in STANDARD:
        return
    for slot in VECTORS.get(node.op_type, ()):
        name = node.input[slot] if slot < len(node.input) else ""
        if name in known and len(known[name][0]) != 1:
            message = f"{node.op_type} takes a list, and '{name}' has the shape {known[name][0]}"
            raise NetadaptError(message, node=node_name(node), code="unrunnable")
