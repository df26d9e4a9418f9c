"""One node at a time in onnxruntime: the values of shape arithmetic, without a session that holds the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Timer
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.nodes import captured, node_name, subgraphs_of
from netadapt_onnx.graph.runtime import Arrays, run, session

if TYPE_CHECKING:
    import onnxruntime

IR_VERSION = 10
# The last resort beside limits that depend on no clock: loops, however few rounds they go, of bodies that take long.
LOOPS_S = 60.0


class SingleNodes:
    """Runs nodes of one model; a session is kept for every operator with its attributes and types."""

    def __init__(self, opsets: Sequence[onnx.OperatorSetIdProto], *, loops: bool = True) -> None:
        """Without `loops` nodes that hold graphs are refused: their running time has no bound."""
        self._opsets = opsets
        self._loops = loops
        self._sessions: dict[tuple[object, ...], Any] = {}
        self._looped_s = 0.0

    def run(self, node: onnx.NodeProto, inputs: Mapping[str, np.ndarray], *, bounded: bool = True) -> Arrays:
        """Outputs by name; `inputs` holds everything the node and its subgraphs read.

        `bounded`: in limited memory, for whoever does not know how large the outputs will be. Raises NetadaptError
        (`unloadable`, `unrunnable`, `too-large`) with onnxruntime's reason, or ours.
        """
        if not self._loops and subgraphs_of(node):
            raise NetadaptError(f"the body of {node.op_type} is not run", node=node.name, code="unrunnable")
        alone = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
        alone.attribute.extend(node.attribute)
        renamed = {name: f"input/{i}" for i, name in enumerate(node.input) if name}
        alone.input.extend(renamed.get(name, "") for name in node.input)
        alone.output.extend(f"output/{i}" if name else "" for i, name in enumerate(node.output))
        feeds = {formal: inputs[name] for name, formal in renamed.items()}
        feeds |= {name: inputs[name] for name in captured(node)}
        types = {name: onnx.helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feeds.items()}
        key = (alone.SerializeToString(deterministic=True), tuple(types.items()), bounded)
        if key not in self._sessions:
            self._sessions[key] = session(self._model(alone, types), optimise=False, bounded=bounded)
        outputs = self._in_time(self._sessions[key], node, feeds, [name for name in alone.output if name])
        results = {name: outputs[f"output/{i}"] for i, name in enumerate(node.output) if name}
        # An array of onnxruntime's keeps its place in the memory that is limited.
        return {n: v.copy() if bounded and isinstance(v, np.ndarray) else v for n, v in results.items()}

    def _in_time(
        self, active: onnxruntime.InferenceSession, node: onnx.NodeProto, feeds: Arrays, outputs: list[str]
    ) -> Arrays:
        """Run a node. What holds graphs is ended when all such nodes together took `LOOPS_S`."""
        try:
            if not subgraphs_of(node):
                return run(active, feeds, outputs)
            import onnxruntime as ort

            options = ort.RunOptions()
            options.log_severity_level = 4
            started = perf_counter()
            timer = Timer(max(0.0, LOOPS_S - self._looped_s), setattr, (options, "terminate", True))
            timer.start()
            try:
                return run(active, feeds, outputs, options)
            finally:
                timer.cancel()
                self._looped_s += perf_counter() - started
        except NetadaptError as error:
            if error.code != "too-large":
                raise
            message = f"{node.op_type} ('{node_name(node)}') was not run to its end: {error.message}"
            raise NetadaptError(message, code=error.code) from error

    def _model(self, node: onnx.NodeProto, types: Mapping[str, int]) -> onnx.ModelProto:
        inputs = [onnx.helper.make_tensor_value_info(name, code, None) for name, code in types.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.GraphProto(name="node", node=[node], input=inputs, output=outputs)
        return onnx.ModelProto(ir_version=IR_VERSION, opset_import=self._opsets, graph=graph)
