"""Features in front of the head: found by name, paired by what they compute, and matched by training."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from models import Builder
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.training.feature_matching import (
    FeatureLoss,
    MatchedFeature,
    head_inputs,
    increasing_pairs,
    matched_features,
    with_outputs,
)
from netadapt_onnx.training.loss import TaskLoss
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.trainer import train
from training_cases import FLOAT

SIZE = 8


def network(channels: int = 12, kept: np.ndarray | None = None) -> onnx.ModelProto:
    """Two convs and a head; with `kept` those channels of the second conv, and of the head's inputs, alone."""
    b = Builder(0)
    x = b.relu(b.conv("image", 3, 6, name="first"))
    b.head(b.relu(b.conv(x, 6, channels, name="second")), channels)
    proto = b.model({"image": ("N", 3, SIZE, SIZE)}, {"logits": ("N", 10)})
    if kept is not None:
        for tensor in proto.graph.initializer:
            value = numpy_helper.to_array(tensor)
            for axis, size in enumerate(value.shape):
                value = value.take(kept, axis) if size == channels else value
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    return proto


def samples(count: int = 96) -> Split:
    x = np.random.default_rng(0).standard_normal((count, 3, SIZE, SIZE))
    return Split({"image": (x * np.linspace(0.2, 3, count)[:, None, None, None]).astype(np.float32)})


KEPT = np.array([0, 2, 3, 7, 8, 11])


def test_channels_are_paired_with_those_that_they_were() -> None:
    student, teacher = network(kept=KEPT), network()
    assert len(head_inputs(student)) == 1
    (feature,) = matched_features(student, teacher, samples())
    assert feature.name == head_inputs(teacher)[0]
    assert feature.teacher.tolist() == KEPT[feature.own].tolist()
    assert len(feature.own) >= 5  # one that is always zero correlates with nothing
    assert feature.variance > 0


def test_nothing_is_matched_by_too_few_samples_or_where_names_or_widths_do_not_fit() -> None:
    student, teacher = network(kept=KEPT), network()
    assert matched_features(student, teacher, samples(4)) == ()
    assert matched_features(teacher, student, samples()) == ()
    other = onnx.ModelProto()
    other.CopyFrom(teacher)
    name = head_inputs(teacher)[0]
    for node in other.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if one == name else one for one in names]
    assert matched_features(student, other, samples()) == ()


def test_pairs_are_the_best_that_keep_the_order() -> None:
    gain = np.array([[0.9, 0.1, 0.2, 0.0], [0.95, 0.0, 0.3, 0.8]])
    assert increasing_pairs(gain).tolist() == [0, 3]
    crossed = np.array([[0.0, 0.0, 1.0], [0.9, 0.1, 0.0]])
    assert increasing_pairs(crossed).tolist() == [0, 1]
    rng = np.random.default_rng(0)
    for _ in range(20):
        gain = rng.standard_normal((3, 5))
        best = max(
            ((i, j, k) for i in range(5) for j in range(i + 1, 5) for k in range(j + 1, 5)),
            key=lambda columns: float(sum(gain[row, column] for row, column in enumerate(columns))),
        )
        assert tuple(increasing_pairs(gain)) == best


def test_the_loss_counts_features_in_units_of_their_variance() -> None:
    feature = MatchedFeature("f", (3,), np.array([0, 2]), np.array([1, 4]), variance=2.0)
    own, teacher = torch.tensor([[1.0, 9.0, 3.0]]), torch.tensor([[3.0, 3.0]])
    assert float(feature.error(own, teacher)) == pytest.approx(1.0)
    task = TaskLoss({})
    labelled = FeatureLoss(task, (feature,))
    exact = torch.tensor([[3.0, -5.0, 3.0]])
    loss = [
        float(labelled({"f": value, "y": torch.zeros(1, 1)}, {"y": torch.ones(1, 1)}, {"f": teacher}))
        for value in (own, exact)
    ]
    assert loss[0] - loss[1] == pytest.approx(1.0)


def test_training_that_matches_features_brings_them_closer_than_answers_alone() -> None:
    student, teacher, split = network(kept=KEPT), network(), samples()
    rng = np.random.default_rng(1)
    for tensor in student.graph.initializer:
        if len(tensor.dims) == 4:
            value = numpy_helper.to_array(tensor)
            value = value + 0.3 * value.std() * rng.standard_normal(value.shape)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    (feature,) = matched_features(student, teacher, split)

    def error(proto: onnx.ModelProto) -> float:
        from netadapt_onnx.graph.runtime import run, session

        own, original = (
            run(session(with_outputs(one, [feature.name])), split.batch(slice(None)), [feature.name])[feature.name]
            for one in (proto, teacher)
        )
        return float(feature.error(torch.from_numpy(own), torch.from_numpy(feature.of_teacher(original))))

    errors = [
        error(
            train(
                student,
                Dataset(split, split),
                TrainingOptions(epochs=8, batch_size=32, matches_features=matches, settings=FLOAT),
                teacher=teacher,
            ).proto
        )
        for matches in (False, True)
    ]
    assert errors[1] < 0.7 * error(student)
    assert errors[1] < 0.8 * errors[0]


def test_a_copy_with_more_outputs_leaves_the_model_alone() -> None:
    proto = network()
    extended = with_outputs(proto, head_inputs(proto))
    assert [value.name for value in proto.graph.output] == ["logits"]
    assert [value.name for value in extended.graph.output] == ["logits", *head_inputs(proto)]
    assert with_outputs(proto, []) is proto
