"""What tries settings: a few steps on the real network, each judged by the plainest settings' gradients.

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
from netadapt_onnx.data.dataset import Labels, taken
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.training.memory import out_of_memory
from netadapt_onnx.training.ops.registry import Registered, register_all
from netadapt_onnx.training.placement import autocast
from netadapt_onnx.training.replicas import Replicas, pieces_of, tensors
from netadapt_onnx.training.settings import Settings, TrialError
from netadapt_onnx.training.task import Targets, Task
from netadapt_onnx.training.torch_graph import TorchGraph

# A process that nobody asks anything ends after so long.
IDLE_S = 60.0
# Distance of gradients from those of float32 in the plainest layout, in units of their length. Rounding alone brings
# 0.03 and 0.64 in EfficientNet-Lite0 on noise, 0.001 and 0.16 in ResNet-20; a step along what is off by its own length
# leads nowhere, and memory that nobody initialised is off by far more.
LARGEST_DISTANCE = {"float32": 0.25, "bfloat16": 1.0}


@dataclass(frozen=True)
class Subject:
    """A network and the samples to try it on. Without a `task` a projection of the outputs stands for the loss.

    `taught`: a teacher's outputs by name, for the samples; `teacher`: a model that must run in the settings, too;
    `ops`: functions of operators that this package does not bring; `only_batch`: the one batch size of the network.
    """

    proto: bytes
    inputs: Arrays
    labels: Labels | None = None
    task: Task | None = None
    taught: Mapping[str, np.ndarray] | None = None
    teacher: bytes | None = None
    ops: Registered = field(default_factory=dict)
    only_batch: int | None = None


@dataclass(frozen=True)
class Failure:
    """Why there is no answer; `unreadable`: the subject did not arrive."""

    reason: str
    memory: bool = False
    error: NetadaptError | None = None
    unreadable: bool = False


class Trial:
    """A subject and what was prepared of it; a context manager that owns threads."""

    def __init__(self, subject: Subject) -> None:
        register_all(subject.ops)
        self._subject = subject
        self._proto = onnx.load_from_string(subject.proto)
        self._teacher = None if subject.teacher is None else TorchGraph(onnx.load_from_string(subject.teacher)).eval()
        self._rows = np.arange(len(next(iter(subject.inputs.values()))))
        self._prepared: dict[Settings, Replicas] = {}
        self._exact: dict[Settings, list[Tensor | None]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def step(self, settings: Settings) -> float:
        """Seconds of a training step, before which the first one of these settings is judged.

        Raises TrialError, without gradients or with such as are no numbers or far off.
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
        objective = _Objective(self._subject.task)
        taught = None if self._subject.taught is None else self._answers
        replicas = self._stack.enter_context(
            Replicas(self._proto, settings, objective, taught, only_batch=self._subject.only_batch)
        )
        if self._teacher is not None:
            self._teacher.to(settings.device).arrange(settings.channels_last)
            with torch.no_grad(), autocast(settings):
                first = pieces_of(self._rows, self._subject.only_batch)[0]
                self._teacher(tensors({n: value[first] for n, value in self._subject.inputs.items()}, settings))
        replicas.gradients(self._fetch, self._rows)
        found = [None if p.grad is None else p.grad.float().cpu() for p in replicas.main.parameters()]
        plain = replace(settings, dtype="float32", channels_last=False)
        if settings == plain:
            self._exact[plain] = [None if value is None else value.clone() for value in found]
        elif plain in self._exact:
            distance = _distance(self._exact[plain], found)
            if not distance <= LARGEST_DISTANCE[settings.dtype]:
                off = f"are off by {distance:.0%}" if math.isfinite(distance) else "are no numbers"
                raise TrialError(f"its gradients {off}")
        objective.projects = False
        self._prepared[settings] = replicas

    def _fetch(self, rows: np.ndarray) -> tuple[Arrays, Labels | None]:
        inputs, labels = self._subject.inputs, self._subject.labels
        return {name: value[rows] for name, value in inputs.items()}, taken(labels, rows)

    def _answers(self, _: Mapping[str, Tensor], rows: np.ndarray, settings: Settings) -> dict[str, Tensor]:
        taught = self._subject.taught or {}
        return {name: torch.from_numpy(value[rows]).to(settings.device) for name, value in taught.items()}


class _Objective:
    """The task's loss; while it `projects`, a random projection of the outputs, whose gradients do not vanish."""

    def __init__(self, task: Task | None) -> None:
        self._task = task
        self.projects = True

    def loss(
        self, outputs: Mapping[str, Tensor], labels: Targets | None, teacher: Mapping[str, Tensor] | None
    ) -> Tensor:
        terms = [_projected(value) for value in outputs.values() if value.requires_grad]
        if self._task is not None and not (self.projects and terms):
            return self._task.loss(outputs, labels, teacher)
        return torch.stack(terms).sum()


def _projected(value: Tensor) -> Tensor:
    direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value.device)
    return (value.float() * direction).sum() / (value.shape[0] if value.dim() else 1)


def _distance(exact: Sequence[Tensor | None], found: Sequence[Tensor | None]) -> float:
    """Of two gradients, in units of the first one's length; 0 where that has none to compare with."""
    pairs = [(a.double(), b.double()) for a, b in zip(exact, found, strict=True) if a is not None and b is not None]
    length = sum(float(a.square().sum()) for a, _ in pairs)
    if not 0 < length < float("inf"):
        return 0.0
    return float((sum(float((a - b).square().sum()) for a, b in pairs) / length) ** 0.5)


def serve(pipe: Connection, log: str) -> None:
    """Answer subjects, then settings for the last subject; None lets it go."""
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
                asked = pickle.loads(message)
                if isinstance(asked, Settings):
                    assert trial is not None
                    answer = trial.step(asked)
                else:
                    stack.close()
                    trial = None if asked is None else stack.enter_context(Trial(asked))
            except TrialError as error:
                answer = Failure(str(error), error.memory, error.error)
            except Exception as error:  # a module that only our master has, say
                answer = Failure(one_line(error), out_of_memory(error), unreadable=True)
            pipe.send_bytes(packed(answer))
