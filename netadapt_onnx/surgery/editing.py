"""The graph that surgery edits: onnx-graphsurgeon's, without the weights.

Weights stand in it as constants without values, beside which their tensors are kept. So it copies none of them (it
would three times), and types that it does not know, bfloat16 say, stay what they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from netadapt_onnx.graph.lazy_weights import loaded, values_of
from netadapt_onnx.graph.subgraphs import bodies, captured
from netadapt_onnx.graph.weightless import WEIGHT_BYTES, raw_bytes, stand_in, without_weights

G_LOGGER.severity = G_LOGGER.CRITICAL  # it speaks of types that it does not know, and of what is not installed


class Editing:
    """An editable `graph` of a model; nothing of `proto` is changed or copied before `exported`."""

    def __init__(self, proto: onnx.ModelProto, file: Path | None = None) -> None:
        """`file`: the model file if weights were left outside it."""
        self._file = file
        light = without_weights(proto)
        self._tensors = {t.name: t for t in proto.graph.initializer}
        for tensor in proto.graph.initializer:
            light.graph.initializer.append(stand_in(tensor) if _is_weight(tensor) else tensor)
        for value in light.graph.output:
            if value.type.HasField("optional_type"):  # which onnx-graphsurgeon cannot write; `exported` takes ours
                value.ClearField("type")
        self._like = proto
        self.graph: gs.Graph = gs.import_onnx(light)

    def values(self, constant: gs.Constant) -> np.ndarray:
        """The values of any constant of the graph."""
        if constant.name in self._tensors and isinstance(constant._values, LazyValues):
            return values_of(self._tensors[constant.name], self._file)
        values: np.ndarray = constant.values
        return values

    def constant(self, name: str, values: np.ndarray) -> gs.Constant:
        """A new constant, or a new value under a name that the old one leaves."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
        self._tensors[name] = tensor
        return gs.Constant(name, LazyValues(stand_in(tensor) if _is_weight(tensor) else tensor))

    def exported(self) -> onnx.ModelProto:
        """The edited graph in the frame of the original: its names, inputs, outputs, opsets, IR version, metadata."""
        made = gs.export_onnx(self.graph, do_type_check=False).graph
        for node in made.node:
            self._capture(node)
        result = without_weights(self._like)
        del result.graph.node[:]
        result.graph.node.extend(made.node)
        needed = {name for node in made.node for name in [*node.input, *captured(node)]}
        needed |= {v.name for v in result.graph.output}
        there = set()
        for tensor in made.initializer:
            if tensor.name in needed:
                there.add(tensor.name)
                stands_in = tensor.data_location == onnx.TensorProto.EXTERNAL
                # Taken out, so that of a model of gigabytes what is new is not there twice.
                value = self._tensors.pop(tensor.name) if stands_in else tensor
                result.graph.initializer.append(loaded(value, self._file))
        missing = needed - there
        result.graph.initializer.extend(loaded(t, self._file) for n, t in self._tensors.items() if n in missing)
        return result

    def _capture(self, node: onnx.NodeProto) -> None:
        """Have bodies read the graph's constants again, of which onnx-graphsurgeon gives each a copy."""
        for body in bodies(node):
            for i in range(len(body.initializer) - 1, -1, -1):
                if body.initializer[i].name in self._tensors:
                    del body.initializer[i]
            for inner in body.node:
                self._capture(inner)


def _is_weight(tensor: onnx.TensorProto) -> bool:
    """Not what rules look at: small constants, and integers of more than a byte (targets, indices)."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:  # and left there
        return True
    size = raw_bytes(tensor)
    if size is None:
        return False
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return dtype.kind == "V" or (size > WEIGHT_BYTES and (dtype.kind == "f" or dtype.itemsize == 1))
