"""One node at a time in onnxruntime: the values of shape arithmetic, without a session that holds the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.runtime import Arrays, run, session
from netadapt_onnx.subgraphs import bodies, captured

IR_VERSION = 10


class SingleNodes:
    """Runs nodes of one model; a session is kept for every operator with its attributes and types."""

    def __init__(self, opsets: Sequence[onnx.OperatorSetIdProto], *, loops: bool = True) -> None:
        """Without `loops` nodes that hold graphs are refused: nobody knows how long they run."""
        self._opsets = opsets
        self._loops = loops
        self._sessions: dict[tuple[object, ...], Any] = {}

    def run(self, node: onnx.NodeProto, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Outputs by name; `inputs` holds everything the node and its subgraphs read.

        Raises NetadaptError (`unloadable`, `unrunnable`) with onnxruntime's reason.
        """
        if not self._loops and bodies(node):
            raise NetadaptError(f"the body of {node.op_type} is not run", node=node.name, code="unrunnable")
        alone = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
        alone.attribute.extend(node.attribute)
        renamed = {name: f"input/{i}" for i, name in enumerate(node.input) if name}
        alone.input.extend(renamed.get(name, "") for name in node.input)
        alone.output.extend(f"output/{i}" if name else "" for i, name in enumerate(node.output))
        feeds = {made: inputs[name] for name, made in renamed.items()} | {name: inputs[name] for name in captured(node)}
        types = {name: onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feeds.items()}
        key = (alone.SerializeToString(deterministic=True), tuple(types.items()))
        if key not in self._sessions:
            self._sessions[key] = session(self._model(alone, types), optimise=False)
        found = run(self._sessions[key], feeds, [name for name in alone.output if name])
        return {name: found[f"output/{i}"] for i, name in enumerate(node.output) if name}

    def _model(self, node: onnx.NodeProto, types: Mapping[str, int]) -> onnx.ModelProto:
        inputs = [
            onnx.ValueInfoProto(name=name, type=onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=code)))
            for name, code in types.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.GraphProto(name="node", node=[node], input=inputs, output=outputs)
        return onnx.ModelProto(ir_version=IR_VERSION, opset_import=self._opsets, graph=graph)
