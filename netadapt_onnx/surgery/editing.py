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
from netadapt_onnx.graph.nodes import all_subgraphs, captured
from netadapt_onnx.graph.weightless import WEIGHT_BYTES, raw_bytes, stand_in, without_weights

G_LOGGER.severity = G_LOGGER.CRITICAL  # it logs about types that it does not know, and about what is not installed


class Editing:
    """An editable `graph` of a model; nothing of the model is changed or copied before `exported`."""

    def __init__(self, proto: onnx.ModelProto, file: Path | None = None) -> None:
        """`file`: the model file if weights were left outside it."""
        self._file = file
        weightless = without_weights(proto)
        self._tensors = {t.name: t for t in proto.graph.initializer}
        for tensor in proto.graph.initializer:
            weightless.graph.initializer.append(stand_in(tensor) if _is_weight(tensor) else tensor)
        for value in weightless.graph.output:
            if value.type.HasField("optional_type"):  # which onnx-graphsurgeon cannot write; `exported` takes ours
                value.ClearField("type")
        self._original = proto
        self.graph: gs.Graph = gs.import_onnx(weightless)

    def values(self, constant: gs.Constant) -> np.ndarray:
        """The values of any constant of the graph."""
        if constant.name in self._tensors and isinstance(constant._values, LazyValues):
            return values_of(self._tensors[constant.name], self._file)
        values: np.ndarray = constant.values
        return values

    def constant(self, name: str, values: np.ndarray) -> gs.Constant:
        """Make a constant, or a new value for a name whose constant is replaced."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
        self._tensors[name] = tensor
        return gs.Constant(name, LazyValues(stand_in(tensor) if _is_weight(tensor) else tensor))

    def exported(self) -> onnx.ModelProto:
        """The edited graph in the frame of the original: its names, inputs, outputs, opsets, IR version, metadata."""
        edited = gs.export_onnx(self.graph, do_type_check=False).graph
        # Subgraphs read the graph's constants again, of which onnx-graphsurgeon gives each a copy.
        for subgraph in all_subgraphs(edited.node):
            for i in reversed(range(len(subgraph.initializer))):
                if subgraph.initializer[i].name in self._tensors:
                    del subgraph.initializer[i]
        result = without_weights(self._original)
        del result.graph.node[:]
        result.graph.node.extend(edited.node)
        needed = {name for node in edited.node for name in [*node.input, *captured(node)]}
        needed |= {v.name for v in result.graph.output}
        missing = set(needed)
        for tensor in edited.initializer:
            if tensor.name in needed:
                missing.discard(tensor.name)
                stands_in = tensor.data_location == onnx.TensorProto.EXTERNAL
                # Taken out, so that of a model of gigabytes what is new is not there twice.
                value = self._tensors.pop(tensor.name) if stands_in else tensor
                result.graph.initializer.append(loaded(value, self._file))
        result.graph.initializer.extend(loaded(t, self._file) for n, t in self._tensors.items() if n in missing)
        return result


def _is_weight(tensor: onnx.TensorProto) -> bool:
    """Whether rules never read a constant's value: small ones and wide integers (targets, indices) they do."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:  # and left there
        return True
    size = raw_bytes(tensor)
    if size is None:
        return False
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return dtype.kind == "V" or (size > WEIGHT_BYTES and (dtype.kind == "f" or dtype.itemsize == 1))
