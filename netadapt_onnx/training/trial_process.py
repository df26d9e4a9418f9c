"""A few training steps of the real network in some settings, compared with the gradients of the plainest settings.

It runs in a process that may die of it (`trials.py`).
"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from queue import Empty
from types import TracebackType
from typing import Self

import numpy as np
import onnx
import torch
from torch import Tensor

from netadapt_onnx.common.child_process import messages, packed
from netadapt_onnx.common.memory import return_free_memory
from netadapt_onnx.data.dataset import Labels, label_rows
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.training.loss import Targets, TaskLoss
from netadapt_onnx.training.memory import out_of_memory
from netadapt_onnx.training.ops.registry import Registered, register_all
from netadapt_onnx.training.placement import autocast
from netadapt_onnx.training.replicas import Replicas, pieces_of, tensors
from netadapt_onnx.training.settings import Settings, TrialError
from netadapt_onnx.training.torch_graph import TorchGraph

# A process that gets no message ends after so long.
IDLE_S = 60.0
# Distance of gradients from those of float32 in the plainest layout, in units of their length. Rounding alone brings
# 0.03 and 0.64 in EfficientNet-Lite0 on noise, 0.001 and 0.16 in ResNet-20; a step along what is off by its own length
# leads nowhere, and memory that nobody initialised is off by far more.
LARGEST_DISTANCE = {"float32": 0.25, "bfloat16": 1.0}


@dataclass(frozen=True)
class TrialNetwork:
    """A network and the samples that it is tried on.

    Attributes:
        proto: The model, serialised.
        inputs: The samples, (N, ...) by name.
        labels: Their labels; None: there are none.
        loss: What training minimises; None: a projection of the outputs stands for it.
        teacher_outputs: A teacher's outputs for the samples, by name.
        teacher: A model, serialised, that must run in the settings too.
        ops: Functions of operators that this package does not bring.
        only_batch: The one batch size at which the network runs; None: it runs at any.
    """

    proto: bytes
    inputs: Arrays
    labels: Labels | None = None
    loss: TaskLoss | None = None
    teacher_outputs: Mapping[str, np.ndarray] | None = None
    teacher: bytes | None = None
    ops: Registered = field(default_factory=dict)
    only_batch: int | None = None


@dataclass(frozen=True)
class Failure:
    """The reason why there is no answer."""

    reason: str
    memory: bool = False
    error: NetadaptError | None = None


class Trial:
    """A network and its replicas in the settings that were tried; a context manager that owns their threads."""

    def __init__(self, network: TrialNetwork) -> None:
        register_all(network.ops)
        self._network = network
        self._proto = onnx.load_from_string(network.proto)
        self._teacher = None if network.teacher is None else TorchGraph(onnx.load_from_string(network.teacher)).eval()
        self._rows = np.arange(len(next(iter(network.inputs.values()))))
        self._prepared: dict[Settings, Replicas] = {}
        self._reference: dict[Settings, list[Tensor | None]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def step(self, settings: Settings) -> float:
        """The seconds of a training step; the first step of some settings is checked and not timed.

        Raises:
            TrialError: The step fails, or its gradients are not finite or far from those of the plainest settings.
        """
        try:
            if settings not in self._prepared:
                self._prepare(settings)
            began = time.perf_counter()
            self._prepared[settings].gradients(self._fetch, self._rows)
            return time.perf_counter() - began
        except TrialError:
            raise
        except NetadaptError as error:
            raise TrialError(str(error), error=error) from error
        except Exception as error:  # whatever it is, other settings may do
            text = f"{type(error).__name__}: {one_line(error, 160)}"
            raise TrialError(text, memory=out_of_memory(error)) from error

    def _prepare(self, settings: Settings) -> None:
        loss = _TrialLoss(self._network.loss)
        teacher = None if self._network.teacher_outputs is None else self._teacher_outputs
        replicas = self._stack.enter_context(
            Replicas(self._proto, settings, loss, teacher, only_batch=self._network.only_batch)
        )
        if self._teacher is not None:
            self._teacher.to(settings.device).arrange(settings.channels_last)
            with torch.no_grad(), autocast(settings):
                first = pieces_of(self._rows, self._network.only_batch)[0]
                self._teacher(tensors({n: value[first] for n, value in self._network.inputs.items()}, settings))
        replicas.gradients(self._fetch, self._rows)
        gradients = [None if p.grad is None else p.grad.float().cpu() for p in replicas.main.parameters()]
        plain = replace(settings, dtype="float32", channels_last=False)
        if settings == plain:
            self._reference[plain] = [None if value is None else value.clone() for value in gradients]
        elif plain in self._reference:
            distance = _distance(self._reference[plain], gradients)
            if not distance <= LARGEST_DISTANCE[settings.dtype]:
                off = f"are off by {distance:.0%}" if math.isfinite(distance) else "are no numbers"
                raise TrialError(f"its gradients {off}")
        loss.projects = False
        self._prepared[settings] = replicas

    def _fetch(self, rows: np.ndarray) -> tuple[Arrays, Labels | None]:
        inputs, labels = self._network.inputs, self._network.labels
        return {name: value[rows] for name, value in inputs.items()}, label_rows(labels, rows)

    def _teacher_outputs(self, _: Mapping[str, Tensor], rows: np.ndarray, settings: Settings) -> dict[str, Tensor]:
        outputs = self._network.teacher_outputs or {}
        return {name: torch.from_numpy(value[rows]).to(settings.device) for name, value in outputs.items()}


class _TrialLoss:
    """The network's loss; while it `projects`, a random projection of the outputs, whose gradients do not vanish."""

    def __init__(self, loss: TaskLoss | None) -> None:
        self._loss = loss
        self.projects = True

    def __call__(
        self, outputs: Mapping[str, Tensor], labels: Targets | None, teacher: Mapping[str, Tensor] | None
    ) -> Tensor:
        terms = [_projected(value) for value in outputs.values() if value.requires_grad]
        if self._loss is not None and not (self.projects and terms):
            return self._loss(outputs, labels, teacher)
        return torch.stack(terms).sum()


def _projected(value: Tensor) -> Tensor:
    direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value.device)
    return (value.float() * direction).sum() / (value.shape[0] if value.dim() else 1)


def _distance(reference: Sequence[Tensor | None], gradients: Sequence[Tensor | None]) -> float:
    """The distance of two gradients, in units of the first one's length; 0 where that has no length."""
    pairs = [
        (a.double(), b.double()) for a, b in zip(reference, gradients, strict=True) if a is not None and b is not None
    ]
    length = sum(float(a.square().sum()) for a, _ in pairs)
    if not 0 < length < float("inf"):
        return 0.0
    return float((sum(float((a - b).square().sum()) for a, b in pairs) / length) ** 0.5)


def serve(pipe: Connection, log: str) -> None:
    """Answer messages of a pipe: a network to try, then settings to try it in; None lets the network go."""
    arrived = messages(pipe, log)
    torch.set_num_threads(1)
    with ExitStack() as stack:
        trial: Trial | None = None
        while True:
            try:
                message = arrived.get(timeout=IDLE_S)
            except Empty:
                os._exit(0)
            pipe.send_bytes(b"began")
            answer: object = None
            try:
                request = pickle.loads(message)
                if isinstance(request, Settings):
                    assert trial is not None
                    answer = trial.step(request)
                else:
                    stack.close()
                    trial = None
                    return_free_memory()  # an idle process waits for the next choice beside the training
                    if request is not None:
                        trial = stack.enter_context(Trial(request))
            except TrialError as error:
                answer = Failure(str(error), error.memory, error.error)
            except Exception as error:  # for instance a module that only the parent process has
                answer = Failure(one_line(error), out_of_memory(error))
            pipe.send_bytes(packed(answer))
