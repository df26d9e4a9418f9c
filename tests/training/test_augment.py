"""Augmented pictures: shifted and mirrored alike for a seed, with their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from models import Builder, plain
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.data.evaluate import outputs
from netadapt_onnx.data.tasks import UNLABELLED
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.augment import augmented, is_flip_invariant, with_flips
from netadapt_onnx.training.batch_plan import BatchPlan
from netadapt_onnx.training.callbacks import TrainingCallbacks
from netadapt_onnx.training.distillation import remembering_teacher
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.trainer import train


def test_augmentation_moves_and_mirrors_each_image_alike_for_a_seed() -> None:
    images = np.arange(4 * 16 * 16, dtype=np.float32).reshape(4, 1, 16, 16) + 1
    inputs = {"x": images, "mask": images[:, 0]}
    first, second = (augmented(inputs, None, np.random.default_rng(1))[0] for _ in range(2))
    np.testing.assert_array_equal(first["x"], second["x"])
    np.testing.assert_array_equal(first["mask"], images[:, 0])
    kept = [np.isin(first["x"][i][first["x"][i] > 0], images[i]).mean() for i in range(4)]
    assert kept == [1.0] * 4
    assert not np.array_equal(first["x"], images)


def test_augmented_maps_of_classes_move_with_their_pictures() -> None:
    x = np.random.default_rng(0).integers(1, 5, (6, 1, 16, 16))
    inputs, labels = augmented({"image": x.astype(np.float32)}, x[:, 0], np.random.default_rng(1))
    assert isinstance(labels, np.ndarray)
    came_in = inputs["image"][:, 0] == 0
    assert came_in.any()
    assert (labels[came_in] == UNLABELLED).all()
    assert (labels[~came_in] == inputs["image"][:, 0][~came_in]).all()
    with pytest.raises(NetadaptError, match="cannot move labels that are maps of values; leave --augment out"):
        augmented({"image": x.astype(np.float32)}, x[:, 0].astype(np.float32), np.random.default_rng(1))
    with pytest.raises(NetadaptError, match="no input is a picture to shift and mirror: 'x' Nx8; leave --augment out"):
        augmented({"x": np.zeros((4, 8), np.float32)}, None, np.random.default_rng(1))


SIZE = 8


def pictures(count: int = 64, *, last: bool = False) -> np.ndarray:
    shape = (count, SIZE, SIZE, 3) if last else (count, 3, SIZE, SIZE)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def brightest(axis: int) -> onnx.ModelProto:
    """A classifier of 8 classes: the brightest column (axis 3), or row (axis 2), of a picture."""
    b = Builder()
    others = [1, 2 if axis == 3 else 3]
    y = b.node("ReduceMean", ["image"], axes=others, keepdims=0)
    return b.model({"image": ("N", 3, SIZE, SIZE)}, {b.node("Identity", [y]): ("N", SIZE)})


def labelled(model: onnx.ModelProto) -> Split:
    """Pictures with the classes that the model gives them."""
    split = Split({"image": pictures()})
    (scores,) = outputs(model, split).values()
    return Split(split.inputs, scores.argmax(1))


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_a_split_both_ways_holds_every_picture_and_then_its_mirror_image(last: bool) -> None:
    x = pictures(6, last=last)
    split = Split({"image": x, "size": np.arange(6.0)}, np.arange(6)).subset(np.array([4, 1]))
    both = with_flips(split)
    assert len(both) == 4
    inputs = both.batch(slice(None))
    flipped = x[[4, 1]][:, :, ::-1] if last else x[[4, 1]][..., ::-1]
    assert np.array_equal(inputs["image"], np.concatenate([x[[4, 1]], flipped]))
    assert inputs["size"].tolist() == [4, 1, 4, 1]
    labels = both.targets()
    assert isinstance(labels, np.ndarray)
    assert labels.tolist() == [4, 1, 4, 1]
    assert np.array_equal(both.batch(np.array([3, 0]))["image"], inputs["image"][[3, 0]])
    assert np.array_equal(split.batch(slice(None))["image"], x[[4, 1]])  # nothing that is stored has changed


def test_mirrored_pictures_are_for_models_that_know_them() -> None:
    rows, columns = brightest(2), brightest(3)
    assert is_flip_invariant(rows, labelled(rows))
    assert not is_flip_invariant(columns, labelled(columns))


def test_without_classes_or_pictures_nothing_is_mirrored() -> None:
    rows = brightest(2)
    assert not is_flip_invariant(rows, Split({"image": pictures()}))
    assert not is_flip_invariant(rows, Split({"image": pictures()}, pictures()))
    assert not is_flip_invariant(rows, Split({"words": np.zeros((64, 9), np.int64)}, np.arange(64) % 8))


def test_every_epoch_sees_every_sample_once_and_every_two_epochs_both_ways() -> None:
    plan = BatchPlan(with_flips(Split({"image": pictures(40)})), 10, 4, 8, seed=3, augment=False, flip=True)
    first, second = (np.concatenate(plan.batches(epoch)) for epoch in (0, 1))
    for seen in (first, second):
        assert sorted(seen % 40) == list(range(40))
        assert 5 < (seen >= 40).sum() < 35
    assert sorted([*first, *second]) == list(range(80))


def test_the_teacher_gives_one_answer_to_both() -> None:
    proto, split = plain(), with_flips(Split({"image": np.repeat(pictures(16), 2, 3).repeat(2, 2)}))
    teacher = remembering_teacher(proto, split, Settings())
    teacher.precompute(split, Settings())
    rows = np.arange(32)
    (each,) = teacher({}, rows, Settings()).values()
    each = each.clone()
    teacher.average_halves()
    (one,) = teacher({}, rows, Settings()).values()
    assert np.array_equal(one[:16], one[16:])
    np.testing.assert_allclose(one[:16], (each[:16] + each[16:]) / 2, rtol=0, atol=1e-6)
    assert float((each[:16] - each[16:]).abs().max()) > 1e-2


def test_a_training_that_mirrors_resumes_to_the_same_bits(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((96, 3, 16, 16)).astype(np.float32)
    split = Split({"image": x}, np.arange(96) % 10)
    data, settings = Dataset(train=split, val=split), Settings()

    class Killed(Exception):
        pass

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise Killed

    def tuned(path: Path, progress: object = None) -> onnx.ModelProto:
        return train(
            plain(),
            data,
            TrainingOptions(epochs=4, batch_size=32, flip=True, settings=settings),
            teacher=plain(seed=1),
            checkpoint=path,
            callbacks=TrainingCallbacks(progress=progress),
        ).proto

    uninterrupted = tuned(tmp_path / "one")
    with pytest.raises(Killed):
        tuned(tmp_path / "two", kill)
    again = tuned(tmp_path / "two")
    assert uninterrupted.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    plainly = train(
        plain(), data, TrainingOptions(epochs=4, batch_size=32, settings=settings), teacher=plain(seed=1)
    ).proto
    assert plainly.SerializeToString(deterministic=True) != uninterrupted.SerializeToString(deterministic=True)
