"""The original model as the teacher: its outputs, remembered per training sample while they fit in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import torch
from torch import Tensor

from netadapt_onnx.common.progress import stage
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.memory import only_batch, samples_first
from netadapt_onnx.training.placement import autocast
from netadapt_onnx.training.replicas import DistillationTargets, pieces_of, tensors
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph

MOST_REMEMBERED_BYTES = 256 * 2**20
# Up to this many samples a teacher of several trainings computes all of them beforehand.
MOST_FORESEEN = 1 << 17
_CHUNK = 256


class Teacher:
    """A frozen model whose outputs are computed once per training sample.

    `samples` is the length of the training split it teaches; with 0 it remembers nothing. One teacher may serve
    many trainings over the same split, and several threads at once: each writes rows of its own. What it answers has
    samples first, as the `layout` of the split says.
    """

    def __init__(self, proto: onnx.ModelProto, samples: int = 0, split: Split | None = None) -> None:
        self._graph = TorchGraph(proto).eval().requires_grad_(False)
        self._samples = samples
        self._known = np.zeros(samples, dtype=bool)
        self._memory: dict[str, Tensor] | None = None
        self._made_with: tuple[str, bool, str] | None = None
        self._checked: dict[str, tuple[int, ...]] | None = None
        self._layout = None if split is None else split.layout
        self._only_batch = None if split is None else only_batch(self._graph, split)

    def __call__(self, inputs: Mapping[str, Tensor], rows: np.ndarray, settings: Settings) -> dict[str, Tensor]:
        """Outputs for `inputs`, which are the training samples numbered `rows`."""
        if self._memory is not None and self._known[rows].all():
            index = torch.from_numpy(rows)
            return {name: values[index] for name, values in self._memory.items()}
        found = self.answer(inputs, settings)
        if self._memory is not None:
            index = torch.from_numpy(rows)
            for name, values in self._memory.items():
                values[index] = found[name]
            self._known[rows] = True
        return found

    @property
    def is_complete(self) -> bool:
        """Whether every sample's answer is remembered: then inputs are not looked at."""
        return self._memory is not None and bool(self._known.all())

    def answer(self, inputs: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
        """Outputs for any inputs, augmented ones for instance, samples first; nothing is remembered."""
        if self._only_batch is None:
            return samples_first(self.put_out(inputs, settings), self._layout)
        count = len(next(iter(inputs.values())))
        parts = [
            samples_first(self.put_out({n: value[rows] for n, value in inputs.items()}, settings), self._layout)
            for rows in map(torch.from_numpy, pieces_of(np.arange(count), self._only_batch))
        ]
        return {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]}

    def put_out(self, inputs: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
        """All outputs, as the model gives them."""
        with torch.no_grad(), autocast(settings):
            return {name: value.float() for name, value in self._graph(inputs).items()}

    def prepare(self, settings: Settings, split: Split, outputs: Mapping[str, tuple[int, ...]]) -> None:
        """Bring the weights into the settings' layout and make room. `outputs`: shapes of the student's, samples first.

        Raises NetadaptError if the student's inputs or outputs are not the teacher's.
        """
        made_with = (settings.dtype, settings.channels_last, settings.device)
        if self._made_with != made_with:
            self._graph.to(settings.device).arrange(settings.channels_last)
            self._known[:] = False
            self._memory = self._checked = None
            self._made_with = made_with
        if self._checked != _of_a_sample(outputs):
            self._check(split, outputs, settings)

    def precompute(self, split: Split, settings: Settings) -> None:
        """For a teacher of several trainings: make what it answers independent of those before.

        The last bits of an output can depend on its neighbours in the batch, so a killed run that resumes with an
        empty memory would train to other weights. All samples are computed in fixed batches, or where they are too
        many none is remembered from one training to the next.
        """
        if self._memory is None or self._known.all():
            return
        self._known[:] = False
        if self._samples > MOST_FORESEEN:
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

    def agree_on_pairs(self) -> None:
        """Answer the two halves of the samples alike from now on: the mean of what `precompute` found for each."""
        half = self._samples // 2
        for values in (self._memory or {}).values():
            mean = (values[:half] + values[half:]) / 2
            values[:half] = mean
            values[half:] = mean

    def _check(self, split: Split, outputs: Mapping[str, tuple[int, ...]], settings: Settings) -> None:
        inputs = tensors(split.batch(np.array([0, len(split) - 1])), settings)
        other = set(self._graph.input_names) ^ set(inputs)
        if other:
            raise NetadaptError(f"the teacher's inputs are not the model's: {sorted(other)}", code="invalid-data")
        self._layout, self._only_batch = split.layout, only_batch(self._graph, split, settings)
        with torch.no_grad():
            own = {name: tuple(value.shape) for name, value in self.answer(inputs, settings).items()}
        if _of_a_sample(own) != _of_a_sample(outputs):
            raise NetadaptError(
                f"the teacher's outputs {_listed(own)} are not the model's {_listed(outputs)}", code="invalid-data"
            )
        self._checked = _of_a_sample(outputs)
        self._known[:] = False
        size = 4 * self._samples * sum(math.prod(shape[1:]) for shape in own.values())
        if 0 < size <= MOST_REMEMBERED_BYTES and all(shape[:1] == (2,) for shape in own.values()):
            self._memory = {
                name: torch.zeros(self._samples, *shape[1:], device=settings.device) for name, shape in own.items()
            }


def _of_a_sample(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape[1:] for name, shape in shapes.items()}


def taught(proto: onnx.ModelProto, split: Split, settings: Settings) -> Teacher:
    """A teacher for pupils whose outputs are the model's own: it answers once for every sample."""
    made = Teacher(proto, len(split), split)
    found = made.answer(tensors(split.batch(np.array([0, len(split) - 1]))), Settings())
    made.prepare(settings, split, {name: tuple(value.shape) for name, value in found.items()})
    return made


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"'{name}' Nx{'x'.join(map(str, shape[1:]))}" for name, shape in shapes.items())


def teaching_of(
    teacher: onnx.ModelProto | Teacher | DistillationTargets | None,
    split: Split,
    settings: Settings,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    varies: bool,
    mirrored: bool,
    repeatable: bool,
) -> DistillationTargets | None:
    """What is taught of a split whose samples may vary from epoch to epoch.

    A teacher for this training alone learns its samples as they come; one that is kept, all at once. So is one whose
    training must be `repeatable` from its middle.
    """
    if teacher is None or not isinstance(teacher, onnx.ModelProto | Teacher):
        return teacher
    kept = isinstance(teacher, Teacher) or repeatable or mirrored
    if not isinstance(teacher, Teacher):
        count = len(split)
        teacher = Teacher(teacher, 0 if varies or (repeatable and count > MOST_FORESEEN) else count)
    teacher.prepare(settings, split, shapes)
    if varies:
        answer = teacher.answer
        return lambda inputs, _, settings: answer(inputs, settings)
    if kept:
        teacher.precompute(split, settings)
    if mirrored and teacher.is_complete:
        teacher.agree_on_pairs()
    return teacher
