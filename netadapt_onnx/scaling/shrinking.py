"""A network in training whose filters are gated, closed one after another, and at times cut out for good.

A gate of 1 stands behind every filter, where its channel is summed over; the squared product of a gate and its gradient
says what the loss would change without the filter (Molchanov et al., CVPR 2019). A closed filter is as good as gone;
what it still costs is saved by cutting it out, which changes nothing but rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.gates import gates
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.distillation import taught
from netadapt_onnx.training.memory import footprint
from netadapt_onnx.training.replicas import Replicas
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.task import task
from netadapt_onnx.training.torch_graph import TorchGraph
from netadapt_onnx.training.weights import running_statistics, trainable

# A network is cut when so many of its filters have been closed since the last time: half a second well spent.
CUT_SHARE = 1 / 8
# Weights are numbered from here on while a cut is planned: no constant of a graph is in this range.
_FIRST = 1 << 40


@dataclass(frozen=True)
class Momentum:
    """Of SGD, besides its rate."""

    momentum: float
    weight_decay: float


class Shrinking:
    """The network; a context manager, because replicas that share its training own threads.

    `open` (roots,) is 1 for every root label whose channel is there and 0 for those that have been closed.
    """

    def __init__(
        self, found: Trace, dataset: Dataset, teacher: onnx.ModelProto | None, settings: Settings, sgd: Momentum
    ) -> None:
        self.found = found
        self.open = np.ones(len(found.roots), np.float32)
        self.gated = np.unique(np.concatenate([gate.line for gate in gates(found)] or [np.zeros(0, np.int64)]))
        self._split = dataset.train
        self._settings = settings
        self._sgd = sgd
        needs = footprint(TorchGraph(found.folded.proto), self._split)
        self._only_batch = needs.only_batch
        self._task = task(found.folded.proto, needs.shapes, dataset)
        self._teacher = None if teacher is None else taught(teacher, self._split, settings)
        self._numbered = _Numbered(found)
        self._replicas: Replicas | None = None
        self._optimiser: torch.optim.SGD | None = None
        self._build()

    def __enter__(self) -> Shrinking:
        return self

    def __exit__(self, *_: object) -> None:
        if self._replicas is not None:
            self._replicas.__exit__(None, None, None)

    def step(self, rows: np.ndarray, lr: float) -> np.ndarray:
        """One step of SGD on these samples; returns the squared gate-gradient products, by root label."""
        assert self._replicas is not None and self._optimiser is not None
        wired = [((gate.output, gate.slot), value) for gate, value in zip(self._gates, self._values, strict=True)]
        loss = self._replicas.gradients(
            lambda index: (self._split.batch(index), self._split.targets(index)), rows, wired
        )  # fmt: skip
        if not math.isfinite(loss):
            raise NetadaptError("training before pruning diverged", hint="give a smaller --lr", code="diverged")
        self._optimiser.param_groups[0]["lr"] = lr
        self._optimiser.step()
        total = np.zeros(len(self.open))
        for gate, value in zip(self._gates, self._values, strict=True):
            if value.grad is not None:
                np.add.at(total, gate.line, value.grad.double().cpu().numpy().reshape(-1))
        total[0] = 0.0
        products: np.ndarray = (total * self.open) ** 2
        return products

    def close(self, roots: np.ndarray) -> None:
        """Close the gates of these root labels; once enough are closed, cut them out."""
        self.open[roots] = 0
        closed = self.gated[self._there[self.gated] & (self.open[self.gated] == 0)]
        if len(closed) >= CUT_SHARE * self._there[self.gated].sum():
            self._build()
        else:
            self._set_gates()

    def _build(self) -> None:
        """The network without its closed channels, with the weights, statistics and momenta that it had."""
        numbered = self._numbered
        if self._replicas is not None and self._optimiser is not None:
            numbered.store(self._replicas, self._optimiser)
            self._replicas.__exit__(None, None, None)
        self._there = self.open > 0
        members = self.found.members
        keep = {g.name: np.flatnonzero(self._there[members[g.name]]) for g in self.found.prunable}
        made, positions = numbered.cut(keep)
        self._replicas = Replicas(made, self._settings, self._task, self._teacher, only_batch=self._only_batch)
        weights = self._replicas.main.weights
        self._optimiser = torch.optim.SGD(
            weights.values(), lr=0.0, momentum=self._sgd.momentum, weight_decay=self._sgd.weight_decay
        )
        numbered.restore(self._optimiser, weights, positions)
        self._gates = [gate.without(~self._there) for gate in gates(self.found)]
        self._set_gates()

    def _set_gates(self) -> None:
        self._values = [
            torch.from_numpy(self.open[gate.line].reshape(gate.shape)).to(self._settings.device).requires_grad_()
            for gate in self._gates
        ]


class _Numbered:
    """All trained numbers of a network in one vector, and their momenta; cuts of it know where theirs come from."""

    def __init__(self, found: Trace) -> None:
        graph = found.flat.proto.graph
        names = {*trainable(graph), *running_statistics(graph)}
        self._found = found
        self._positions: Mapping[str, np.ndarray] = {}
        numbered = onnx.ModelProto()
        numbered.CopyFrom(found.flat.proto)
        values: list[np.ndarray] = []
        for tensor in numbered.graph.initializer:
            if tensor.name not in names:
                continue
            array = numpy_helper.to_array(tensor).astype(np.float32)
            start = _FIRST + sum(map(len, values))
            positions = np.arange(start, start + array.size).reshape(array.shape)
            tensor.CopyFrom(numpy_helper.from_array(positions, tensor.name))
            values.append(array.reshape(-1))
        self._numbers = replace(found, flat=replace(found.flat, proto=numbered))
        self._values = np.concatenate(values) if values else np.zeros(0, np.float32)
        self._momenta = np.zeros_like(self._values)

    def cut(self, keep: Mapping[str, np.ndarray]) -> tuple[onnx.ModelProto, Mapping[str, np.ndarray]]:
        """The network with these channels kept, its values put in; and of each initializer where they come from."""
        made = resize(self._numbers, keep)
        positions = {}
        for tensor in made.graph.initializer:
            if tensor.data_type != onnx.TensorProto.INT64:
                continue
            numbers = numpy_helper.to_array(tensor) - _FIRST
            if numbers.size and numbers.min() >= 0 and numbers.max() < len(self._values):
                positions[tensor.name] = numbers
                tensor.CopyFrom(numpy_helper.from_array(self._values[numbers], tensor.name))
        self._positions = positions
        return made, positions

    def store(self, replicas: Replicas, optimiser: torch.optim.SGD) -> None:
        """Take over what training made of the last cut."""
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
        """Give an optimiser the momenta."""
        for name, parameter in weights.items():
            momentum = torch.from_numpy(self._momenta[positions[name]])
            optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
