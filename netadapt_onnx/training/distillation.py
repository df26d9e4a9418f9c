"""Distillation: a teacher's outputs as targets, remembered for each training sample while they fit into memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import torch
from torch import Tensor

from netadapt_onnx.common.progress import stage
from netadapt_onnx.data.batch_layout import samples_first
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.errors import invalid_data
from netadapt_onnx.training.memory import only_batch
from netadapt_onnx.training.placement import autocast
from netadapt_onnx.training.replicas import DistillationTargets, pieces_of, tensors
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph

MOST_REMEMBERED_BYTES = 256 * 2**20
# Up to this many samples a teacher of several trainings computes all of them beforehand.
MOST_PRECOMPUTED = 1 << 17
_CHUNK = 256


class Teacher:
    """A frozen model whose outputs are computed once for each training sample.

    One teacher may serve many trainings on the same split, and several threads at once: each writes rows of its own.
    """

    def __init__(self, proto: onnx.ModelProto, samples: int = 0, split: Split | None = None) -> None:
        """Build the network.

        Args:
            proto: The teacher's model, normalised.
            samples: The length of the training split, whose outputs are remembered; 0: nothing is.
            split: Samples that say where the outputs hold theirs and which batch the model takes; None: `prepare` is
                called with them.
        """
        self._graph = TorchGraph(proto).eval().requires_grad_(False)
        self._samples = samples
        self._remembered = np.zeros(samples, dtype=bool)
        self._memory: dict[str, Tensor] | None = None
        self._arranged_for: tuple[str, bool, str] | None = None
        self._checked_shapes: dict[str, tuple[int, ...]] | None = None
        self._layout = None if split is None else split.layout
        self._only_batch = None if split is None else only_batch(self._graph, split)

    def __call__(self, inputs: Mapping[str, Tensor], rows: np.ndarray, settings: Settings) -> dict[str, Tensor]:
        """The outputs for training samples, computed or remembered.

        Args:
            inputs: The samples, (N, ...) by input name.
            rows: Their numbers in the training split, (N,).
            settings: How this machine trains.

        Returns:
            Outputs by name, (N, ...), samples first.
        """
        index = torch.from_numpy(rows)
        if self._memory is not None and self._remembered[rows].all():
            return {name: values[index] for name, values in self._memory.items()}
        outputs = self.outputs(inputs, settings)
        if self._memory is not None:
            for name, values in self._memory.items():
                values[index] = outputs[name]
            self._remembered[rows] = True
        return outputs

    @property
    def is_complete(self) -> bool:
        """Whether every sample's outputs are remembered: then inputs are not read."""
        return self._memory is not None and bool(self._remembered.all())

    def outputs(self, inputs: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
        """Outputs for any inputs, augmented ones for instance, samples first; nothing is remembered."""
        if self._only_batch is None:
            return samples_first(self.raw_outputs(inputs, settings), self._layout)
        count = len(next(iter(inputs.values())))
        parts = [
            samples_first(self.raw_outputs({n: value[rows] for n, value in inputs.items()}, settings), self._layout)
            for rows in map(torch.from_numpy, pieces_of(np.arange(count), self._only_batch))
        ]
        return {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]}

    def raw_outputs(self, inputs: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
        """All outputs as float32, in the layout that the model gives them."""
        with torch.no_grad(), autocast(settings):
            return {name: value.float() for name, value in self._graph(inputs).items()}

    def prepare(self, settings: Settings, split: Split, outputs: Mapping[str, tuple[int, ...]]) -> None:
        """Bring the weights into the layout of the settings, and make room for the outputs.

        Args:
            settings: How this machine trains.
            split: The training split.
            outputs: Shapes of the student's outputs by name, samples first.

        Raises:
            NetadaptError: The student's inputs or outputs are not the teacher's.
        """
        arrangement = (settings.dtype, settings.channels_last, settings.device)
        if self._arranged_for != arrangement:
            self._graph.to(settings.device).arrange(settings.channels_last)
            self._remembered[:] = False
            self._memory = self._checked_shapes = None
            self._arranged_for = arrangement
        if self._checked_shapes != _sample_shapes(outputs):
            self._check(split, outputs, settings)

    def precompute(self, split: Split, settings: Settings) -> None:
        """Make the outputs of a teacher of several trainings independent of the trainings before.

        The last bits of an output can depend on its neighbours in the batch, so a killed run that resumes with an
        empty memory would train to other weights. All samples are computed in fixed batches, or where they are too
        many none is remembered from one training to the next.
        """
        if self._memory is None or self._remembered.all():
            return
        self._remembered[:] = False
        if self._samples > MOST_PRECOMPUTED:
            return

        def compute(start: int) -> None:
            rows = np.arange(start, min(start + _CHUNK, self._samples))
            self(tensors(split.batch(rows), settings), rows, settings)

        chunks = range(0, self._samples, _CHUNK)
        with (
            stage("asking the teacher", len(chunks)) as report,
            ThreadPoolExecutor(settings.replicas, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            for done, _ in enumerate(pool.map(compute, chunks), 1):
                report(done)

    def _check(self, split: Split, outputs: Mapping[str, tuple[int, ...]], settings: Settings) -> None:
        inputs = tensors(split.batch(np.array([0, len(split) - 1])), settings)
        other = set(self._graph.input_names) ^ set(inputs)
        if other:
            raise invalid_data(f"the teacher's inputs are not the model's: {sorted(other)}")
        self._layout, self._only_batch = split.layout, only_batch(self._graph, split, settings)
        with torch.no_grad():
            shapes = {name: tuple(value.shape) for name, value in self.outputs(inputs, settings).items()}
        if _sample_shapes(shapes) != _sample_shapes(outputs):
            raise invalid_data(f"the teacher's outputs {_format(shapes)} are not the model's {_format(outputs)}")
        self._checked_shapes = _sample_shapes(outputs)
        self._remembered[:] = False
        size = 4 * self._samples * sum(math.prod(shape[1:]) for shape in shapes.values())
        if 0 < size <= MOST_REMEMBERED_BYTES and all(shape[:1] == (2,) for shape in shapes.values()):
            self._memory = {
                name: torch.zeros(self._samples, *shape[1:], device=settings.device) for name, shape in shapes.items()
            }


TeacherSource = onnx.ModelProto | Teacher | DistillationTargets


def remembering_teacher(proto: onnx.ModelProto, split: Split, settings: Settings) -> Teacher:
    """A teacher, prepared for students with the same outputs, that computes each sample of a split once.

    Args:
        proto: The teacher's model, normalised.
        split: The training split.
        settings: How this machine trains.
    """
    teacher = Teacher(proto, len(split), split)
    outputs = teacher.outputs(tensors(split.batch(np.array([0, len(split) - 1]))), Settings())
    teacher.prepare(settings, split, {name: tuple(value.shape) for name, value in outputs.items()})
    return teacher


def distillation_targets(
    source: TeacherSource | None,
    split: Split,
    settings: Settings,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    varies: bool,
    repeatable: bool,
) -> DistillationTargets | None:
    """The function that gives a training its targets; None without a teacher.

    A teacher for this training alone remembers outputs as its samples come; one that serves several trainings computes
    them all at once, and so does one whose training must be repeatable from its middle.

    Args:
        source: A model, a teacher, or the function itself.
        split: The training split.
        settings: How this machine trains.
        shapes: Shapes of the student's outputs by name, samples first.
        varies: Whether samples change from epoch to epoch, so that no output can be remembered.
        repeatable: Whether a killed training resumes.

    Raises:
        NetadaptError: The student's inputs or outputs are not the teacher's.
    """
    if source is None or not isinstance(source, onnx.ModelProto | Teacher):
        return source
    if isinstance(source, Teacher):
        teacher = source
    else:
        count = len(split)
        teacher = Teacher(source, 0 if varies or (repeatable and count > MOST_PRECOMPUTED) else count)
    teacher.prepare(settings, split, shapes)
    if varies:
        return lambda inputs, _, settings: teacher.outputs(inputs, settings)
    if isinstance(source, Teacher) or repeatable:
        teacher.precompute(split, settings)
    return teacher


def _sample_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes without the axis of samples."""
    return {name: shape[1:] for name, shape in shapes.items()}


def _format(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"'{name}' Nx{'x'.join(map(str, shape[1:]))}" for name, shape in shapes.items())
