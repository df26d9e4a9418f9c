"""Distillation: what the original says of samples, computed at every step or once for each training sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor

from netadapt_onnx.data.batch_layout import samples_first
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.errors import invalid_data
from netadapt_onnx.training.batch_plan import epoch_order
from netadapt_onnx.training.feature_matching import MatchedFeature
from netadapt_onnx.training.memory import only_batch
from netadapt_onnx.training.placement import autocast
from netadapt_onnx.training.remembered_answers import MOST_BYTES, RememberedAnswers, bytes_per_sample
from netadapt_onnx.training.replicas import DistillationTargets, pieces_of, tensors
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph


class Teacher:
    """A frozen model whose outputs are computed at every step. Several threads may ask at once."""

    def __init__(self, proto: onnx.ModelProto, split: Split | None = None) -> None:
        """Build the network.

        Args:
            proto: The teacher's model, normalised.
            split: Samples that say where the outputs hold theirs and which batch the model takes; None: `prepare` is
                called with them.
        """
        self._graph = TorchGraph(proto).eval().requires_grad_(False)
        self._layout = None if split is None else split.layout
        self._only_batch = None if split is None else only_batch(self._graph, split)

    def __call__(self, inputs: Mapping[str, Tensor], _: np.ndarray, settings: Settings) -> dict[str, Tensor]:
        """The outputs for samples, as `DistillationTargets`."""
        return self.outputs(inputs, settings)

    def outputs(self, inputs: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
        """Outputs by name for inputs by name, (N, ...) each, samples first."""
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

    def prepare(self, settings: Settings, split: Split, outputs: Mapping[str, tuple[int, ...]]) -> bool:
        """Bring the weights into the layout of the settings.

        Args:
            settings: How this machine trains.
            split: The training split.
            outputs: Shapes of the student's outputs by name, samples first.

        Returns:
            Whether every output has one entry for each sample.

        Raises:
            NetadaptError: The student's inputs or outputs are not the teacher's.
        """
        self._graph.to(settings.device).arrange(settings.channels_last)
        inputs = tensors(split.batch(np.array([0, len(split) - 1])), settings)
        other = set(self._graph.input_names) ^ set(inputs)
        if other:
            raise invalid_data(f"the teacher's inputs are not the model's: {sorted(other)}")
        self._layout, self._only_batch = split.layout, only_batch(self._graph, split, settings)
        with torch.no_grad():
            shapes = {name: tuple(value.shape) for name, value in self.outputs(inputs, settings).items()}
        if _sample_shapes(shapes) != _sample_shapes(outputs):
            raise invalid_data(f"the teacher's outputs {_format(shapes)} are not the model's {_format(outputs)}")
        return all(shape[:1] == (2,) for shape in shapes.values())


TeacherSource = onnx.ModelProto | DistillationTargets


def distillation_targets(
    proto: onnx.ModelProto,
    split: Split,
    settings: Settings,
    shapes: Mapping[str, tuple[int, ...]],
    order: np.ndarray,
    *,
    features: Sequence[MatchedFeature] = (),
    pair_offset: int | None = None,
    varies: bool = False,
) -> DistillationTargets:
    """What a model says of training samples: remembered for each, unless samples vary or there is too little memory.

    Args:
        proto: The model, normalised.
        split: The training split, all views of its samples.
        settings: How this machine trains.
        shapes: Shapes of the student's outputs by name, samples first.
        order: All rows of the split in the order in which they are shown first, (N,).
        features: Features that are matched: they come with the answers.
        pair_offset: See `RememberedAnswers`.
        varies: Whether samples change from epoch to epoch, so that no output can be remembered.

    Raises:
        NetadaptError: The student's inputs or outputs are not the model's.
    """
    teacher = Teacher(proto)
    is_by_sample = teacher.prepare(settings, split, shapes)
    fits = len(split) * bytes_per_sample(shapes, features) <= MOST_BYTES
    if varies or not fits or not (is_by_sample or features):
        return teacher
    return RememberedAnswers(proto, split, features, settings, order, pair_offset)


def shared_targets(proto: onnx.ModelProto, split: Split, settings: Settings, seed: int) -> DistillationTargets:
    """The targets of several trainings with one seed, which a training leaves as it finds them.

    Args:
        proto: The model, normalised.
        split: The training split.
        settings: How this machine trains.
        seed: The seed of the trainings.
    """
    ends = tensors(split.batch(np.array([0, len(split) - 1])))
    shapes = {name: tuple(value.shape) for name, value in Teacher(proto, split).outputs(ends, Settings()).items()}
    order = epoch_order(seed, 0, len(split))
    return distillation_targets(proto, split, settings, shapes, order, varies=split.varies)


def _sample_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes without the axis of samples."""
    return {name: shape[1:] for name, shape in shapes.items()}


def _format(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"'{name}' Nx{'x'.join(map(str, shape[1:]))}" for name, shape in shapes.items())
