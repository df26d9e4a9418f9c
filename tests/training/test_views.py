"""Views of pictures: the same ones for a seed, in pairs of mirror images, in turn, and taught as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models import plain
from netadapt_onnx.data.dataset import Dataset, Scaling, Split
from netadapt_onnx.data.evaluate import outputs
from netadapt_onnx.training.batch_plan import BatchPlan
from netadapt_onnx.training.callbacks import TrainingCallbacks
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.remembered_answers import RememberedAnswers, _by_torch
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.trainer import train
from netadapt_onnx.training.views import MOST, Views, automatic_views, with_views
from training_cases import KilledError, killed_at

SIZE = 16


def pictures(count: int, *, last: bool = False) -> np.ndarray:
    shape = (count, SIZE, SIZE, 3) if last else (count, 3, SIZE, SIZE)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_the_first_pair_is_the_picture_and_its_mirror_image(last: bool) -> None:
    x = pictures(6, last=last)
    split = Split({"image": x, "size": np.arange(6.0)}, np.arange(6)).subset(np.array([4, 1]))
    shown = with_views(split, Views(4, flips=True, crops=True), seed=3)
    assert len(shown) == 8
    inputs, labels = shown.batch(slice(None)), shown.targets()
    flip = (lambda value: value[..., ::-1, :]) if last else (lambda value: value[..., ::-1])
    for row, number in enumerate([4, 1]):
        pair = {inputs["image"][row].tobytes(), inputs["image"][row + 2].tobytes()}
        assert pair == {x[number].tobytes(), np.ascontiguousarray(flip(x[number])).tobytes()}
    assert inputs["size"].tolist() == [4, 1] * 4
    assert isinstance(labels, np.ndarray) and labels.tolist() == [4, 1] * 4
    assert not np.array_equal(inputs["image"][4:6], inputs["image"][:2])


def test_views_do_not_depend_on_what_else_is_read() -> None:
    split = Split({"image": pictures(6)})
    one, other = (with_views(split, Views(8, True, True), seed=3) for _ in range(2))
    everything = one.batch(slice(None))["image"]
    for row in (40, 7, 13):
        assert np.array_equal(other.batch(np.array([row]))["image"][0], everything[row])
    assert not np.array_equal(with_views(split, Views(8, True, True), seed=4).batch(slice(None))["image"], everything)


def test_a_crop_shows_a_part_of_its_picture_at_its_size_and_in_its_type() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64), (2, 3, 64, 64)).astype(np.uint8)
    scaling = Scaling(np.zeros((3, 1, 1), np.float32), np.ones((3, 1, 1), np.float32))
    shown = with_views(Split({"image": ramp}, scaling={"image": scaling}), Views(5, crops=True), seed=0)
    values = 255 * shown.batch(slice(None))["image"]
    assert values.shape == (10, 3, 64, 64)
    slope = np.diff(values[2:], axis=-1).mean((1, 2, 3)) / (255 / 63)
    assert (slope > 0.6).all() and (slope < 1.001).all()  # no less than half of the area, and nothing is mirrored
    assert slope.min() < 0.95
    assert values.min() >= 0 and values.max() <= 255.001


def test_every_epoch_sees_every_sample_once_and_the_next_epoch_its_next_view() -> None:
    options = TrainingOptions(epochs=4, seed=3, views=Views(3, crops=True))
    plan = BatchPlan.of(options, Split({"image": pictures(40)}), 10)
    assert (plan.samples, plan.steps, len(plan.split)) == (40, 16, 120)
    for epoch in range(4):
        seen = np.concatenate(plan.batches(epoch))
        assert sorted(seen) == list(range(40 * (epoch % 3), 40 * (epoch % 3) + 40))


def test_few_pictures_are_cropped_many_are_mirrored_and_what_would_have_to_move_along_is_neither() -> None:
    few = Split({"image": pictures(20)}, np.arange(20))
    assert automatic_views(few, 10.6, flips=True, pairs_agree=True) == Views(10, True, True, True)
    assert automatic_views(few, 99, flips=False, pairs_agree=True) == Views(MOST, False, True, False)
    assert automatic_views(few, 5, flips=True, pairs_agree=True) == Views(2, True, False, True)
    assert automatic_views(few, 5, flips=False, pairs_agree=False).count == 1
    assert automatic_views(few, 5, flips=False, pairs_agree=False, always=True).crops
    maps = Split({"image": pictures(20)}, np.zeros((20, SIZE, SIZE), np.int64))
    assert automatic_views(maps, 99, flips=True, pairs_agree=True).count == 1
    assert automatic_views(Split({"x": np.zeros((20, 9), np.float32)}), 99, flips=True, pairs_agree=True).count == 1


def test_views_keep_within_the_memory_for_answers() -> None:
    assert Views(8, True, True).within(5) == Views(4, True, True)
    assert Views(8, False, True).within(5) == Views(5, False, True)
    assert Views(8, True, True).within(1) == Views()
    assert Views(2, True).within(100) == Views(2, True)


@pytest.mark.parametrize("averaged", [False, True])
def test_answers_are_those_of_the_view_or_the_mean_of_its_pair(averaged: bool) -> None:
    count, views, proto = 70, Views(4, flips=True, crops=True), plain(seed=1)
    shown = with_views(Split({"image": pictures(count)}), views, seed=2)
    (exact,) = outputs(proto, shown).values()
    order = np.random.default_rng(3).permutation(4 * count)
    answers = RememberedAnswers(proto, shown, (), Settings(), order, count if averaged else None)
    rows = np.array([0, count - 1, count, 3 * count + 7, 2 * count + 7])
    (value,) = answers({}, rows, Settings()).values()
    pairs = exact.reshape(2, 2, count, -1).mean(1, keepdims=True).repeat(2, 1).reshape(exact.shape)
    expected = (pairs if averaged else exact)[rows]
    np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=1e-5 * np.abs(exact).max())
    assert np.abs(pairs - exact).max() > 0.01 * np.abs(exact).max()


def test_rows_come_in_the_order_in_which_they_are_shown_first() -> None:
    options = TrainingOptions(epochs=4, seed=3, views=Views(3, crops=True))
    plan = BatchPlan.of(options, Split({"image": pictures(43)}), 10)
    order = plan.order()
    assert sorted(order) == list(range(129))
    for epoch in range(3):
        np.testing.assert_array_equal(order[43 * epoch : 43 * epoch + 40], np.concatenate(plan.batches(epoch)))


@pytest.mark.parametrize("pairs_agree", [False, True])
def test_a_training_of_a_few_steps_asks_for_little_that_it_does_not_show(
    pairs_agree: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netadapt_onnx.training.remembered_answers.batch_size", lambda proto, split: 16)
    counts: list[int] = []

    def counted(proto: onnx.ModelProto, split: Split, **options: Any) -> dict[str, np.ndarray]:
        counts.append(len(split))
        return outputs(proto, split, **options)

    monkeypatch.setattr("netadapt_onnx.training.remembered_answers.outputs", counted)
    split, teacher = Split({"image": pictures(400)}, np.arange(400) % 10), plain(seed=1)
    options = TrainingOptions(
        steps=2, batch_size=24, seed=3, views=Views(2, True, False, pairs_agree), settings=Settings()
    )
    train(plain(), Dataset(split, split), options, teacher=teacher)
    assert counts == [96 if pairs_agree else 48]


def test_torch_answers_as_onnxruntime_does() -> None:
    proto, split = plain(seed=1), Split({"image": pictures(9)})
    (exact,), (value,) = outputs(proto, split).values(), outputs(proto, split, compute=_by_torch(Settings())).values()
    np.testing.assert_allclose(value, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


def test_a_training_on_views_resumes_to_the_same_bits(tmp_path: Path) -> None:
    split = Split({"image": pictures(96)}, np.arange(96) % 10)
    data, settings = Dataset(split, split), Settings()

    def tuned(path: Path, stop: int | None = None) -> onnx.ModelProto:
        return train(
            plain(),
            data,
            TrainingOptions(
                epochs=5,
                batch_size=32,
                views=Views(4, True, True, True),
                matches_features=True,
                averages=True,
                settings=settings,
            ),
            teacher=plain(seed=1),
            checkpoint=path,
            callbacks=TrainingCallbacks(progress=killed_at(stop)),
        ).proto

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("netadapt_onnx.training.loop.SAVED_EVERY_S", 0.0)
        uninterrupted = tuned(tmp_path / "one")
        for stop in (5, 11):
            with pytest.raises(KilledError):
                tuned(tmp_path / "two", stop)
        again = tuned(tmp_path / "two")
    assert uninterrupted.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
