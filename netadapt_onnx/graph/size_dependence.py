"""How what a graph computes from shapes depends on sizes that its file leaves open: the result of `dynamic_dims.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx

from netadapt_onnx.graph.shapes import Spec


class TensorValues(Protocol):
    """The tensors of a graph at some sizes of its inputs (`shape_inference.Evaluation`)."""

    tensor_specs: dict[str, Spec]

    def has_value(self, name: str) -> bool:
        """Whether a tensor has one value, whatever the values of the inputs are."""

    def value(self, name: str) -> np.ndarray:
        """The value of a tensor that has one."""


# By input the axes beyond the first.
DynamicDims = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class SizeDependence:
    """How tensors of a graph depend on sizes that its file leaves open.

    Attributes:
        shape_made: all tensors that are computed from the shape of something.
        batch_inputs: the inputs whose first axis is dynamic.
        next_batch: the evaluation with those axes one longer; None where nothing depends on them, or the model has no
            other batch.
        computed: tensors that depend on other dynamic axes and therefore stay computed.
        wildcards: Reshape targets of which one entry depends on such axes, with a -1 there.
        fixed: the dynamic axes that can have no other size than that of the evaluation.
    """

    shape_made: frozenset[str]
    batch_inputs: Sequence[str]
    next_batch: TensorValues | None
    computed: frozenset[str]
    wildcards: Mapping[str, onnx.TensorProto]
    fixed: DynamicDims
