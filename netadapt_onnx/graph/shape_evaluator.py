"""A graph evaluated at any sizes of its inputs, and how well its tensors fit together there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.inputs import declared_shape, declared_specs, fits, input_specs, longer, sizes_of_symbols
from netadapt_onnx.graph.nodes import READS_SHAPE_ONLY, captured, is_standard
from netadapt_onnx.graph.required_shapes import NOT, SOMEHOW, WELL
from netadapt_onnx.graph.runtime import CANNOT_RUN
from netadapt_onnx.graph.shape_inference import Evaluation
from netadapt_onnx.graph.shapes import Shapes, Specs
from netadapt_onnx.graph.single_node import SingleNodes


def agrees(value: onnx.ValueInfoProto, specs: Specs) -> bool:
    """Whether a tensor has the shape that the file declares."""
    declared = declared_shape(value)
    return declared is None or value.name not in specs or fits(specs[value.name][0], declared)


@dataclass(frozen=True)
class ShapeEvaluator:
    """Evaluates the shapes and constants of one sorted graph.

    `proto` holds the graph without its initializers, which are in `initializers`; `single_nodes` runs nodes of it.
    """

    proto: onnx.ModelProto
    initializers: dict[str, onnx.TensorProto]
    single_nodes: SingleNodes

    def at(self, specs: Specs, batch_size: int) -> Evaluation:
        """The evaluation at these shapes of the inputs.

        Shapes of operators that nothing can run are assumed only as long as nothing in the graph contradicts that.
        Raises NetadaptError (code `unrunnable`) for a model that cannot have inputs of these shapes.
        """
        symbols = sizes_of_symbols(self.proto, {name: shape for name, (shape, _) in specs.items()})
        graph = self.proto.graph
        declared = declared_specs([*graph.value_info, *graph.output], symbols, batch_size)
        try:
            evaluation = Evaluation(self.proto, self.initializers, specs, declared, self.single_nodes)
            if not evaluation.assumed or all(agrees(value, evaluation.tensor_specs) for value in graph.output):
                return evaluation
        except NetadaptError:
            if all(is_standard(node) for node in graph.node):
                raise
        return Evaluation(self.proto, self.initializers, specs, declared, self.single_nodes, assume=False)

    def fit(self, shapes: Shapes, batch_size: int) -> int:
        """How well the graph's tensors fit together at the shapes of those inputs that need one."""
        try:
            trial = self.at(input_specs(self.proto, shapes, batch_size), batch_size)
        except NetadaptError:
            return NOT
        specs = trial.tensor_specs
        possible = not any(reason.startswith(CANNOT_RUN) for reason in trial.opaque.values())
        if not possible or not all(agrees(value, specs) for value in self.proto.graph.output):
            return NOT
        constants = self.initializers.keys()
        for node in self.proto.graph.node:  # a constant that is added should not stretch what it is added to
            if node.op_type == "Add" and len(node.input) == 2 and not constants.isdisjoint(node.input):
                shapes_met = {specs[n][0] for n in (*node.input, *node.output) if n in specs and n not in constants}
                if len(shapes_met) > 1:
                    return SOMEHOW
        return WELL

    def at_if_possible(self, specs: Specs, batch_size: int) -> Evaluation | None:
        """The evaluation at these shapes of the inputs; None if the model cannot have them."""
        try:
            return self.at(specs, batch_size)
        except NetadaptError as error:
            if error.code != "unrunnable":
                raise
            return None

    def at_next_batch(self, specs: Specs, batch_inputs: list[str], batch_size: int) -> Evaluation | None:
        """The evaluation with the first axis of `batch_inputs` one longer; None if the model has its batch baked in."""
        return self.at_if_possible(longer(specs, dict.fromkeys(batch_inputs, (0,)), 1), batch_size + 1)

    def conditions(self, evaluation: Evaluation) -> Mapping[str, np.ndarray]:
        """The values of those conditions of If nodes that have one."""
        names = [node.input[0] for node in self.proto.graph.node if node.op_type == "If"]
        return {n: evaluation.value(n) for n in names if n in self.initializers or evaluation.has_value(n)}

    def computed_from_shapes(self) -> set[str]:
        """The tensors that are computed from the shape of something."""
        names: set[str] = set()
        for node in self.proto.graph.node:
            if node.op_type in READS_SHAPE_ONLY or not names.isdisjoint([*node.input, *captured(node)]):
                names.update(node.output)
        return names
