"""An ONNX graph as a torch module whose parameters are the graph's initializers, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

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
from netadapt_onnx.training.fused import fused
from netadapt_onnx.training.graph_reading import read_nodes, read_tensor
from netadapt_onnx.training.ops.registry import DTYPES, Function, Node, is_training_aware, lookup
from netadapt_onnx.training.placement import together
from netadapt_onnx.training.separate_statistics import separate_statistics
from netadapt_onnx.training.weights import Kind, running_statistics, trainable

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

    Parameters are the initializers that are clearly weights, under their own names (`weights`); running statistics of
    BatchNormalization are buffers and follow the data in training mode, each layer its own. Everything else is
    constant. What is float16 or bfloat16 in the file is float32 here, inputs and Casts included, until `write_back`.
    Outputs that are no tensors of numbers are left out, with the nodes that nothing else needs.
    Raises NetadaptError (code `unsupported`) that lists every op without a torch function.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        super().__init__()
        proto = _without_other_outputs(separate_statistics(proto))
        _refuse_unsupported(proto)
        self.input_names = tuple(v.name for v in proto.graph.input)
        self.output_names = tuple(v.name for v in proto.graph.output)
        self.kinds: Mapping[str, Kind] = trainable(proto.graph)
        statistics = running_statistics(proto.graph)
        self._attributes: dict[str, str] = {}
        self._fixed: dict[str, Tensor] = {}
        self._moved = False
        for index, tensor in enumerate(proto.graph.initializer):
            self._register(tensor, f"tensor_{index}", statistics)
        self._nodes = self._fold_constants(read_nodes(proto))
        self._steps = self._plan(self._nodes)
        self._fast = self._plan(*fused(self._nodes, self.output_names))
        self._observer: Observer | None = None
        self._gates: Mapping[str, Sequence[tuple[int, Tensor]]] = {}
        self._declared_batch = _fixed_batch(proto)
        self._reshapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        if self._declared_batch is not None and any(node.op in _SHAPED for node in self._nodes):
            self._probe(proto)

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the file insists on; it runs at others where Reshape and Expand can follow."""
        return self._declared_batch

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by initializer name."""
        parameters = dict(self.named_parameters())
        return {name: parameters[self._attributes[name]] for name in self.kinds}

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Running means and variances by initializer name."""
        buffers = dict(self.named_buffers())
        return {name: buffers[key] for name, key in self._attributes.items() if key in buffers}

    def arrange(self, channels_last: bool) -> None:
        """Bring weights of four axes into one memory layout."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        for value in (*self.parameters(), *self.buffers()):
            if value.dim() == 4:
                value.data = value.data.contiguous(memory_format=layout)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """To another device: fixed values go along, but for integers, which tell shapes and positions to Python."""
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
        """Run the graph. Inputs in graph order, or by name; returns outputs by name."""
        if isinstance(inputs, Tensor):
            inputs = dict(zip(self.input_names, (inputs, *more), strict=True))
        values: dict[str, Tensor] = {**self._fixed, **inputs}
        for name, key in self._attributes.items():
            values[name] = getattr(self, key)
        scale = 1.0
        if self._declared_batch:
            scale = inputs[self.input_names[0]].shape[0] / self._declared_batch
        # Who looks at single nodes finds every one of them.
        for step in self._steps if self._gates or self._observer else self._fast:
            arguments = [values[name] if name else None for name in step.node.inputs]
            if self._moved:
                arguments = together(arguments)
            for slot, gate in self._gates.get(step.node.outputs[0], ()):
                value = arguments[slot]
                arguments[slot] = None if value is None else value * gate
            results: Tensor | tuple[Tensor, ...]
            if scale != 1 and step.node.outputs[0] in self._reshapes:
                results = self._rescaled(step.node, arguments[0])
            elif step.training_aware:
                results = step.function(step.node, *arguments, training=self.training)
            else:
                results = step.function(step.node, *arguments)
            outputs = (results,) if isinstance(results, Tensor) else results
            values.update(zip(step.node.outputs, outputs, strict=False))
            if self._observer is not None:
                self._observer(step.node, arguments, outputs)
            for name in step.release:
                values.pop(name, None)
        return {name: values[name] for name in self.output_names}

    def observe(self, inputs: Mapping[str, Tensor], observer: Observer) -> dict[str, Tensor]:
        """Run in evaluation mode without gradients, telling `observer` of every node's inputs and outputs."""
        mode, self._observer = self.training, observer
        try:
            with torch.no_grad():
                found: dict[str, Tensor] = self.eval()(inputs)
            return found
        finally:
            self._observer = None
            self.train(mode)

    def gated(self, inputs: Mapping[str, Tensor], gates: Iterable[tuple[tuple[str, int], Tensor]]) -> dict[str, Tensor]:
        """Run with single inputs of nodes multiplied: a gate comes with its node's first output and an input slot."""
        chosen: dict[str, list[tuple[int, Tensor]]] = {}
        for (output, slot), gate in gates:
            chosen.setdefault(output, []).append((slot, gate))
        self._gates = chosen
        try:
            found: dict[str, Tensor] = self(inputs)
            return found
        finally:
            self._gates = {}

    def write_back(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of `proto` with the trained weights and the running statistics put in by name; nothing else changes.

        Layers that shared a running statistic have one each, as here. Raises NetadaptError if an initializer is missing
        there or has another shape.
        """
        written = onnx.ModelProto()
        written.CopyFrom(separate_statistics(proto))
        tensors = {t.name: t for t in written.graph.initializer}
        for name, value in self.state().items():
            target = tensors.get(name)
            if target is None or tuple(target.dims) != tuple(value.shape):
                found = "missing" if target is None else f"of shape {tuple(target.dims)}"
                raise NetadaptError(f"initializer '{name}' of shape {tuple(value.shape)} is {found} in the model")
            dtype = onnx.helper.tensor_dtype_to_np_dtype(target.data_type)
            array = value.contiguous().cpu().numpy()
            if dtype == np.float16:  # a running variance may have grown beyond it: infinity would end in NaN
                array = array.clip(-_LARGEST_HALF, _LARGEST_HALF)
            target.CopyFrom(numpy_helper.from_array(array.astype(dtype), name))
        return written

    def _register(self, tensor: onnx.TensorProto, key: str, statistics: set[str]) -> None:
        value = read_tensor(tensor)
        if tensor.name in self.kinds:
            self._attributes[tensor.name] = key
            self.register_parameter(key, nn.Parameter(value))
        elif tensor.name in statistics:
            self._attributes[tensor.name] = key
            self.register_buffer(key, value)
        else:
            self._fixed[tensor.name] = value

    def _fold_constants(self, nodes: list[Node]) -> list[Node]:
        """Run once and for all what depends on constants alone, and tell each node which of its inputs are fixed."""
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

    def _plan(self, nodes: Sequence[Node], functions: Mapping[str, Function] | None = None) -> list[_Step]:
        """Steps for nodes; `functions` by first output come before those of their ops."""
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
        self._reshapes = noted

    def _rescaled(self, node: Node, x: Tensor | None) -> Tensor:
        """A target that was written for another batch size: the axis that holds the batch is scaled."""
        assert x is not None
        before, after = self._reshapes[node.outputs[0]]
        if node.op == "Expand":
            return _expanded(node, x, before, after)
        changed = [i for i, (now, then) in enumerate(zip(x.shape, before, strict=True)) if now != then]
        if not changed:
            return x.reshape(after)
        ahead = int(np.prod(before[: changed[0]], dtype=np.int64))
        axis = next((j for j in range(len(after)) if int(np.prod(after[:j], dtype=np.int64)) == ahead), None)
        if len(changed) > 1 or axis is None or after[axis] * x.shape[changed[0]] % before[changed[0]]:
            raise NetadaptError(
                f"Reshape to {list(after)} fixes the batch axis", hint="re-export with a dynamic batch", node=node.name,
                code="unsupported",
            )  # fmt: skip
        target = list(after)
        target[axis] = after[axis] * x.shape[changed[0]] // before[changed[0]]
        return x.reshape(target)


def _expanded(node: Node, x: Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    """An Expand at another batch size: axes that have grown with it and were not expanded stay as they are."""
    new = len(after) - len(before)
    target = list(after)
    for axis, (now, then) in enumerate(zip(x.shape, before, strict=True)):
        if now == then:
            continue
        if after[new + axis] != then:
            raise NetadaptError(
                f"Expand to {list(after)} fixes the batch axis", hint="re-export with a dynamic batch", node=node.name,
                code="unsupported",
            )  # fmt: skip
        target[new + axis] = now
    return x.expand(target)


def _without_other_outputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same without outputs that are no tensors of numbers; `proto` itself if there are none."""
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
