"""An ONNX graph as a torch module whose parameters are the graph's initializers, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import netadapt_onnx.training.ops  # noqa: F401  registers the ops
from netadapt_onnx.data.find_batch_layout import tensor_outputs
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.extract import needed
from netadapt_onnx.graph.inputs import declared_shape
from netadapt_onnx.graph.nodes import node_name
from netadapt_onnx.training.graph_reading import fused, read_nodes, read_tensor
from netadapt_onnx.training.ops.movement import rescale_batch
from netadapt_onnx.training.ops.registry import DTYPES, Function, Node, is_training_aware, lookup
from netadapt_onnx.training.placement import together
from netadapt_onnx.training.weights import Kind, running_statistics, separate_statistics, trainable

Observer = Callable[[Node, Sequence[Tensor | None], Sequence[Tensor]], None]
# Ops whose target shape may have the batch written into it.
_SHAPED = ("Reshape", "Expand")
_LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class _Step:
    """One node, ready to run: `release` are the tensors that nothing needs after it."""

    node: Node
    function: Function
    training_aware: bool
    release: tuple[str, ...]


class TorchGraph(nn.Module):
    """Runs a normalised ONNX graph in torch, with any batch size, differentiably.

    Parameters are the initializers that are clearly weights; running statistics of BatchNormalization are buffers and
    follow the data in training mode, each layer its own. Everything else is constant. What is float16 or bfloat16 in
    the file is float32 in torch, inputs and Casts included, until `write_back`. Outputs that are not tensors of numbers
    are left out, with the nodes that nothing else needs.

    Attributes:
        input_names: The graph's inputs, in order.
        output_names: Its outputs, in order.
        kinds: The trainable initializers by name, and whether each is a weight, a bias or a normalisation's.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        """Build the module.

        Args:
            proto: The model, normalised.

        Raises:
            NetadaptError: Operators have no torch function (`unsupported`); the message lists them all.
        """
        super().__init__()
        proto = _without_other_outputs(separate_statistics(proto))
        _refuse_unsupported(proto)
        self.input_names = tuple(v.name for v in proto.graph.input)
        self.output_names = tuple(v.name for v in proto.graph.output)
        self.kinds: Mapping[str, Kind] = trainable(proto.graph)
        statistics = running_statistics(proto.graph)
        # By initializer, the module that holds its parameter or buffer, and under which name.
        self._owners: dict[str, tuple[nn.Module, str]] = {}
        self._fixed: dict[str, Tensor] = {}
        self._moved = False
        for index, tensor in enumerate(proto.graph.initializer):
            self._register(tensor, f"tensor_{index}", statistics)
        self._nodes = self._fold_constants(read_nodes(proto))
        self._plan_steps()
        self._observer: Observer | None = None
        self._gates: Mapping[str, Sequence[tuple[int, Tensor]]] = {}
        self._declared_batch = _fixed_batch(proto)
        self._written_shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        if self._declared_batch is not None and any(node.op in _SHAPED for node in self._nodes):
            self._probe(proto)

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the file insists on; it runs at others where Reshape and Expand can follow."""
        return self._declared_batch

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by initializer name."""
        return {name: getattr(*self._owners[name]) for name in self.kinds}

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Running means and variances by initializer name."""
        return {name: getattr(*owner) for name, owner in self._owners.items() if name not in self.kinds}

    def move_tensors(self, place: Callable[[str], tuple[nn.Module, str]]) -> None:
        """Have other modules hold the parameters and buffers, which this one goes on computing with.

        Args:
            place: The module, and the name there, that an initializer goes to.
        """
        for name, (owner, key) in self._owners.items():
            value = getattr(owner, key)
            delattr(owner, key)
            new_owner, new_key = self._owners[name] = place(name)
            if isinstance(value, nn.Parameter):
                new_owner.register_parameter(new_key, value)
            else:
                new_owner.register_buffer(new_key, value)

    def arrange(self, channels_last: bool) -> None:
        """Bring weights of four axes into one memory layout."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        for value in (*self.parameters(), *self.buffers()):
            if value.dim() == 4:
                value.data = value.data.contiguous(memory_format=layout)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device: constants go along, except integers, which Python reads as shapes and positions."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._fixed = {
            n: fn(v) if v.is_floating_point() or v.dtype == torch.bool else v for n, v in self._fixed.items()
        }
        self._moved = fn(torch.empty(0)).device.type != "cpu"
        return self

    def state(self) -> dict[str, Tensor]:
        """Copies of everything that training changes, by initializer name."""
        return {name: value.detach().clone() for name, value in (*self.weights.items(), *self.statistics.items())}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        with torch.no_grad():
            for name, value in (*self.weights.items(), *self.statistics.items()):
                value.copy_(state[name])

    def forward(self, inputs: Mapping[str, Tensor] | Tensor, *more: Tensor) -> dict[str, Tensor]:
        """Run the graph.

        Args:
            inputs: Tensors by name, (N, ...), or the graph's first input.
            more: The other inputs, in the graph's order.

        Returns:
            Outputs by name, as the model gives them.
        """
        if isinstance(inputs, Tensor):
            inputs = dict(zip(self.input_names, (inputs, *more), strict=True))
        values: dict[str, Tensor] = {**self._fixed, **inputs}
        for name, owner in self._owners.items():
            values[name] = getattr(*owner)
        declared = self._declared_batch
        is_other_batch = bool(declared) and inputs[self.input_names[0]].shape[0] != declared
        # An observer and gates need every node by itself.
        for step in self._steps if self._gates or self._observer else self._fused_steps:
            outputs = self._run_step(step, values, is_other_batch)
            values.update(zip(step.node.outputs, outputs, strict=False))
            for name in step.release:
                values.pop(name, None)
        return {name: values[name] for name in self.output_names}

    def _run_step(self, step: _Step, values: Mapping[str, Tensor], is_other_batch: bool) -> Sequence[Tensor]:
        node = step.node
        arguments = [values[name] if name else None for name in node.inputs]
        if self._moved:
            arguments = together(arguments)
        for slot, gate in self._gates.get(node.outputs[0], ()):
            value = arguments[slot]
            arguments[slot] = None if value is None else value * gate
        results: Tensor | tuple[Tensor, ...]
        if is_other_batch and node.outputs[0] in self._written_shapes:
            results = rescale_batch(node, arguments[0], *self._written_shapes[node.outputs[0]])
        elif step.training_aware:
            results = step.function(node, *arguments, training=self.training)
        else:
            results = step.function(node, *arguments)
        outputs = (results,) if isinstance(results, Tensor) else results
        if self._observer is not None:
            self._observer(node, arguments, outputs)
        return outputs

    def observe(self, inputs: Mapping[str, Tensor], observer: Observer) -> dict[str, Tensor]:
        """Run in evaluation mode without gradients, and call `observer` with every node, its inputs and its outputs."""
        mode, self._observer = self.training, observer
        try:
            with torch.no_grad():
                outputs: dict[str, Tensor] = self.eval()(inputs)
            return outputs
        finally:
            self._observer = None
            self.train(mode)

    def gated(self, inputs: Mapping[str, Tensor], gates: Iterable[tuple[tuple[str, int], Tensor]]) -> dict[str, Tensor]:
        """Run with inputs of single nodes multiplied.

        Args:
            inputs: Tensors by name, (N, ...).
            gates: The first output and the input slot of a node, and the multiplier, which broadcasts to the input.

        Returns:
            Outputs by name, as the model gives them.
        """
        chosen: dict[str, list[tuple[int, Tensor]]] = {}
        for (output, slot), gate in gates:
            chosen.setdefault(output, []).append((slot, gate))
        self._gates = chosen
        try:
            outputs: dict[str, Tensor] = self(inputs)
            return outputs
        finally:
            self._gates = {}

    def write_back(self, proto: onnx.ModelProto, state: Mapping[str, Tensor] | None = None) -> onnx.ModelProto:
        """A copy of a model with the trained weights and the running statistics put in by name; nothing else changes.

        Layers that shared a running statistic have one each, as in torch.

        Args:
            proto: A model with the same initializers.
            state: Other weights and statistics, as `state` returns them; None: those of this graph.

        Raises:
            NetadaptError: An initializer is missing, or has another shape.
        """
        written = onnx.ModelProto()
        written.CopyFrom(separate_statistics(proto))
        tensors = {t.name: t for t in written.graph.initializer}
        for name, value in (self.state() if state is None else state).items():
            target = tensors.get(name)
            if target is None or tuple(target.dims) != tuple(value.shape):
                other = "missing" if target is None else f"of shape {tuple(target.dims)}"
                raise NetadaptError(f"initializer '{name}' of shape {tuple(value.shape)} is {other} in the model")
            dtype = onnx.helper.tensor_dtype_to_np_dtype(target.data_type)
            array = value.detach().contiguous().cpu().numpy()
            if dtype == np.float16:  # a running variance may have grown beyond it: infinity would end in NaN
                array = array.clip(-_LARGEST_HALF, _LARGEST_HALF)
            target.CopyFrom(numpy_helper.from_array(array.astype(dtype), name))
        return written

    def _register(self, tensor: onnx.TensorProto, key: str, statistics: set[str]) -> None:
        value = read_tensor(tensor)
        if tensor.name in self.kinds:
            self._owners[tensor.name] = (self, key)
            self.register_parameter(key, nn.Parameter(value))
        elif tensor.name in statistics:
            self._owners[tensor.name] = (self, key)
            self.register_buffer(key, value)
        else:
            self._fixed[tensor.name] = value

    def _fold_constants(self, nodes: list[Node]) -> list[Node]:
        """Run once what depends on constants alone, and record with each node which of its inputs are constant."""
        kept: list[Node] = []
        for node in nodes:
            fixed = {i: self._fixed[name].numpy() for i, name in enumerate(node.inputs) if name in self._fixed}
            node = Node(
                node.op, node.name, node.opset, node.inputs, node.outputs, node.domain, node.attributes, fixed
            )  # fmt: skip
            if not all(name in self._fixed for name in node.inputs if name):
                kept.append(node)
                continue
            function = _function(node)
            with torch.no_grad():
                results = function(node, *(self._fixed[name] if name else None for name in node.inputs))
            outputs = (results,) if isinstance(results, Tensor) else results
            self._fixed.update((n, v) for n, v in zip(node.outputs, outputs, strict=False) if n)
        return kept

    def _plan_steps(self) -> None:
        self._steps = self._plan(self._nodes)
        self._fused_steps = self._plan(*fused(self._nodes, self.output_names))

    def __getstate__(self) -> dict[str, Any]:
        """What pickle keeps: all but the steps, whose functions are closures."""
        return {name: value for name, value in vars(self).items() if name not in ("_steps", "_fused_steps")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._plan_steps()

    def _plan(self, nodes: Sequence[Node], functions: Mapping[str, Function] | None = None) -> list[_Step]:
        """Steps for nodes; `functions`, by a node's first output, take the place of those of their operators."""
        last: dict[str, int] = {}
        for i, node in enumerate(nodes):
            last.update((name, i) for name in (*node.inputs, *node.outputs))
        for name in self.output_names:
            last.pop(name, None)
        release: dict[int, list[str]] = {}
        for name, i in last.items():
            release.setdefault(i, []).append(name)
        own = functions or {}
        return [
            _Step(
                node,
                own.get(node.outputs[0]) or _function(node),
                is_training_aware(node.domain, node.op),
                tuple(release.get(i, ())),
            )
            for i, node in enumerate(nodes)
        ]

    def _probe(self, proto: onnx.ModelProto) -> None:
        """Run once at the declared batch size and note what each Reshape and Expand does there: others can follow."""
        inputs = {}
        for value in proto.graph.input:
            shape = declared_shape(value)
            if shape is None or any(size is None for size in shape):
                self._declared_batch = None
                return
            dtype = DTYPES.get(value.type.tensor_type.elem_type, torch.float32)
            inputs[value.name] = torch.ones([size or 0 for size in shape], dtype=dtype)
        noted: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

        def note(node: Node, arguments: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
            written = node.op == "Reshape" or (node.op == "Expand" and 1 in node.constants)
            if written and arguments[0] is not None:
                noted[node.outputs[0]] = (tuple(arguments[0].shape), tuple(results[0].shape))

        self.observe(inputs, note)
        self._written_shapes = noted


def _without_other_outputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same without outputs that are not tensors of numbers; `proto` itself if there are none."""
    tensors, others = tensor_outputs(proto)
    if not others:
        return proto
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    nodes = [proto.graph.node[i] for i in needed(proto, tensors)]
    outputs = [value for value in proto.graph.output if value.name in tensors]
    for field, kept in (("node", nodes), ("output", outputs)):
        part.graph.ClearField(field)
        getattr(part.graph, field).extend(kept)
    return part


def unsupported(proto: onnx.ModelProto) -> dict[str, list[str]]:
    """Ops that have no torch function, each with the nodes that use it."""
    missing: dict[str, list[str]] = {}
    for node in proto.graph.node:
        if lookup(node.domain, node.op_type) is None:
            missing.setdefault(node.op_type, []).append(node_name(node))
    return missing


def _refuse_unsupported(proto: onnx.ModelProto) -> None:
    missing = unsupported(proto)
    if missing:
        listed = "; ".join(
            f"{op} (in '{names[0]}'{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
            for op, names in missing.items()
        )
        raise NetadaptError(
            f"training does not support {listed}",
            hint="`netadapt-onnx prune --reconstruct` needs no training",
            code="unsupported",
        )


def _function(node: Node) -> Function:
    function = lookup(node.domain, node.op)
    if function is None:
        raise node.refuse("")
    return function


def _fixed_batch(proto: onnx.ModelProto) -> int | None:
    """The batch size the file insists on; None where the first axis is dynamic."""
    shapes = [declared_shape(v) for v in proto.graph.input]
    first = {shape[0] if shape else None for shape in shapes}
    return next(iter(first)) if len(first) == 1 else None
