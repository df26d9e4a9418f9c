"""A network in training whose filters have gates, which are closed one after another.

Every filter is multiplied by a gate of 1 where its channel is summed over; the squared product of a gate and its
gradient estimates by how much the loss would change without the filter (Molchanov et al., CVPR 2019). A filter with a
closed gate (0) contributes nothing; from time to time closed filters are cut out, which saves their cost and changes
nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.filter_gates import filter_gates
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.distillation import shared_targets
from netadapt_onnx.training.loss import task_loss
from netadapt_onnx.training.memory import footprint
from netadapt_onnx.training.replicas import Replicas
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph
from netadapt_onnx.training.weights import running_statistics, trainable

# Closed filters are cut out once they are this share of the filters; it takes half a second.
CUT_SHARE = 1 / 8
# Weights are replaced by numbers from here on while a cut is planned: no constant of a graph is in this range.
_FIRST = 1 << 40
# The paper's.
MOMENTUM, WEIGHT_DECAY = 0.5, 5e-4


class GatedNetwork:
    """A network in training; a context manager, because the replicas that share the work own threads.

    `open` (roots,) is 1 for every root label whose gate is open and 0 for those that have been closed; `gated` are the
    root labels that have a gate.
    """

    def __init__(
        self, trace: Trace, dataset: Dataset, teacher: onnx.ModelProto | None, settings: Settings, seed: int = 0
    ) -> None:
        self.trace = trace
        self.open = np.ones(len(trace.roots), np.float32)
        labels = [gate.axis_labels for gate in filter_gates(trace)]
        self.gated = np.unique(np.concatenate(labels or [np.zeros(0, np.int64)]))
        self._split = dataset.train
        self._settings = settings
        needs = footprint(TorchGraph(trace.folded.proto), self._split)
        self._only_batch = needs.only_batch
        self._task = task_loss(trace.folded.proto, needs.shapes, dataset)
        self._teacher = None if teacher is None else shared_targets(teacher, self._split, settings, seed)
        self._parameters = _ParameterVector(trace)
        self._replicas: Replicas | None = None
        self._optimiser: torch.optim.SGD | None = None
        self._build()

    def __enter__(self) -> GatedNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        if self._replicas is not None:
            self._replicas.__exit__(None, None, None)

    def step(self, rows: np.ndarray, lr: float) -> np.ndarray:
        """Take one step of SGD.

        Args:
            rows: The numbers of the samples, (batch,).
            lr: The learning rate.

        Returns:
            The squared products of gate and gradient by root label, (roots,).
        """
        assert self._replicas is not None and self._optimiser is not None
        gates = [((gate.output, gate.slot), value) for gate, value in zip(self._gates, self._values, strict=True)]
        loss = self._replicas.gradients(
            lambda index: (self._split.batch(index), self._split.targets(index)), rows, gates
        )  # fmt: skip
        if not math.isfinite(loss):
            raise NetadaptError("training before pruning diverged", hint="give a smaller --lr", code="diverged")
        self._optimiser.param_groups[0]["lr"] = lr
        self._optimiser.step()
        total = np.zeros(len(self.open))
        for gate, value in zip(self._gates, self._values, strict=True):
            if value.grad is not None:
                np.add.at(total, gate.axis_labels, value.grad.double().cpu().numpy().reshape(-1))
        total[0] = 0.0
        products: np.ndarray = (total * self.open) ** 2
        return products

    def close(self, roots: np.ndarray) -> None:
        """Close the gates of these root labels; once enough are closed, cut them out."""
        self.open[roots] = 0
        closed = self.gated[self._present[self.gated] & (self.open[self.gated] == 0)]
        if len(closed) >= CUT_SHARE * self._present[self.gated].sum():
            self._build()
        else:
            self._set_gates()

    def _build(self) -> None:
        """Build the network without its closed channels, with the weights, statistics and momenta of before."""
        parameters = self._parameters
        if self._replicas is not None and self._optimiser is not None:
            parameters.store(self._replicas, self._optimiser)
            self._replicas.__exit__(None, None, None)
        self._present = self.open > 0
        members = self.trace.members
        keep = {g.name: np.flatnonzero(self._present[members[g.name]]) for g in self.trace.prunable}
        cut, positions = parameters.cut(keep)
        self._replicas = Replicas(cut, self._settings, self._task, self._teacher, only_batch=self._only_batch)
        weights = self._replicas.main.weights
        self._optimiser = torch.optim.SGD(weights.values(), lr=0.0, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        parameters.restore(self._optimiser, weights, positions)
        self._gates = [gate.without(~self._present) for gate in filter_gates(self.trace)]
        self._set_gates()

    def _set_gates(self) -> None:
        self._values = [
            torch.from_numpy(self.open[gate.axis_labels].reshape(gate.shape)).to(self._settings.device).requires_grad_()
            for gate in self._gates
        ]


class _ParameterVector:
    """All trained values of a network as one vector, with their momenta; cuts say which positions they keep."""

    def __init__(self, trace: Trace) -> None:
        graph = trace.flat.proto.graph
        names = {*trainable(graph), *running_statistics(graph)}
        self._positions: Mapping[str, np.ndarray] = {}
        numbered = onnx.ModelProto()
        numbered.CopyFrom(trace.flat.proto)
        values: list[np.ndarray] = []
        for tensor in numbered.graph.initializer:
            if tensor.name not in names:
                continue
            array = numpy_helper.to_array(tensor).astype(np.float32)
            start = _FIRST + sum(map(len, values))
            positions = np.arange(start, start + array.size).reshape(array.shape)
            tensor.CopyFrom(numpy_helper.from_array(positions, tensor.name))
            values.append(array.reshape(-1))
        self._numbers = replace(trace, flat=replace(trace.flat, proto=numbered))
        self._values = np.concatenate(values) if values else np.zeros(0, np.float32)
        self._momenta = np.zeros_like(self._values)

    def cut(self, keep: Mapping[str, np.ndarray]) -> tuple[onnx.ModelProto, Mapping[str, np.ndarray]]:
        """Cut the network to these channels.

        Returns:
            The model with its values, and the positions of each initializer's values in the vector.
        """
        model = resize(self._numbers, keep)
        positions = {}
        for tensor in model.graph.initializer:
            if tensor.data_type != onnx.TensorProto.INT64:
                continue
            numbers = numpy_helper.to_array(tensor) - _FIRST
            if numbers.size and numbers.min() >= 0 and numbers.max() < len(self._values):
                positions[tensor.name] = numbers
                tensor.CopyFrom(numpy_helper.from_array(self._values[numbers], tensor.name))
        self._positions = positions
        return model, positions

    def store(self, replicas: Replicas, optimiser: torch.optim.SGD) -> None:
        """Store the values and momenta that training gave the last cut."""
        replicas.average_statistics()
        for name, value in replicas.main.state().items():
            self._values[self._positions[name]] = value.contiguous().cpu().numpy()
        for name, parameter in replicas.main.weights.items():
            momentum = optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                self._momenta[self._positions[name]] = momentum.contiguous().cpu().numpy()

    def restore(
        self, optimiser: torch.optim.SGD, weights: Mapping[str, Tensor], positions: Mapping[str, np.ndarray]
    ) -> None:
        """Set the momenta of an optimiser."""
        for name, parameter in weights.items():
            momentum = torch.from_numpy(self._momenta[positions[name]])
            optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
