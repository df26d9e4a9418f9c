"""Integers that depend on the batch size, written back so that the batch stays dynamic.

A folded model is run at two batch sizes; an integer tensor whose values differ is `slope * batch + offset`. As a
Reshape target with one such entry it becomes a -1 (or a 0: copy the input's), elsewhere two small nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.graph.nodes import keep_only, unused_name
from netadapt_onnx.graph.shapes import Specs

Written = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


class SymbolicBatch:
    """Writes formulas in the first axis of one graph input.

    `specs` are the shapes of all tensors at `batch_size`, `used_names` those that must not be used again.
    """

    def __init__(self, input_name: str, batch_size: int, specs: Specs, used_names: Iterable[str]) -> None:
        self._input = input_name
        self._batch_size = batch_size
        self._specs = specs
        self._used_names = set(used_names)
        self._sizes: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def write(self, name: str, value: np.ndarray, other: np.ndarray, reshapes: Sequence[onnx.NodeProto]) -> Written:
        """Nodes and constants that compute `name`, which is `value` at this batch size and `other` at the next.

        `reshapes` are its readers if all of them use it as a Reshape target (else empty); they may be edited.
        """
        slope = other - value
        changed = np.flatnonzero(slope)
        if reshapes and value.ndim == 1 and len(changed) == 1:
            wildcard = self._wildcard(value, int(changed[0]), reshapes)
            if wildcard is not None:
                target = value.copy()
                target[changed] = wildcard
                return [], [numpy_helper.from_array(target, name)]
        scaled, by, plus = (self._new_name(f"{name}/{part}") for part in ("scaled", "slope", "offset"))
        constants = [
            numpy_helper.from_array(slope, by),
            numpy_helper.from_array(value - slope * self._batch_size, plus),
        ]
        nodes = [
            onnx.helper.make_node("Mul", [self._size(value.dtype), by], [scaled], name=scaled),
            onnx.helper.make_node("Add", [scaled, plus], [name], name=self._new_name(f"{name}/batch")),
        ]
        return nodes, constants

    def _new_name(self, name: str) -> str:
        name = unused_name(name, self._used_names)
        self._used_names.add(name)
        return name

    def _wildcard(self, target: np.ndarray, axis: int, reshapes: Sequence[onnx.NodeProto]) -> int | None:
        """-1 (what is left over) if the target has none yet, else 0 (the input's own) where that is the batch."""
        if not (target == -1).any():
            return -1
        shapes = [self._specs[node.input[0]][0] for node in reshapes]
        if axis > 0 or (target == 0).any() or any(not shape or shape[0] != target[0] for shape in shapes):
            return None
        for node in reshapes:  # without a literal 0 in the target, allowzero changes nothing but this
            keep_only(node.attribute, [a for a in node.attribute if a.name != "allowzero"])
        return 0

    def _size(self, dtype: np.dtype[Any]) -> str:
        """The batch size as a scalar of the given integer type."""
        if "int64" not in self._sizes:
            shape, axis = self._new_name(f"{self._input}/shape"), self._new_name(f"{self._input}/batch_axis")
            size = self._sizes["int64"] = self._new_name(f"{self._input}/batch_size")
            self.nodes += [
                onnx.helper.make_node("Shape", [self._input], [shape], name=shape),
                onnx.helper.make_node("Gather", [shape, axis], [size], name=size),
            ]
            self.constants.append(numpy_helper.from_array(np.array(0, np.int64), axis))
        if dtype.name not in self._sizes:
            typed = self._sizes[dtype.name] = self._new_name(f"{self._input}/batch_size_{dtype.name}")
            code = onnx.helper.np_dtype_to_tensor_dtype(dtype)
            self.nodes.append(onnx.helper.make_node("Cast", [self._sizes["int64"]], [typed], name=typed, to=code))
        return self._sizes[dtype.name]
