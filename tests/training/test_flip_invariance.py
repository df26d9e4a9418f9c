"""Mirror images are shown to models that know them: by their accuracy, or by their own answers."""

from __future__ import annotations

import numpy as np
import onnx

from models import Builder
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.evaluate import outputs
from netadapt_onnx.training.flip_invariance import is_flip_invariant, mirrored

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


def test_a_mirrored_split_has_the_same_labels_and_changes_nothing_that_is_stored() -> None:
    for last in (False, True):
        x = pictures(6, last=last)
        split = Split({"image": x, "size": np.arange(6.0)}, np.arange(6)).subset(np.array([4, 1]))
        inputs = mirrored(split).batch(slice(None))
        flipped = x[[4, 1]][:, :, ::-1] if last else x[[4, 1]][..., ::-1]
        assert np.array_equal(inputs["image"], flipped)
        assert inputs["size"].tolist() == [4, 1]
        labels = mirrored(split).targets()
        assert isinstance(labels, np.ndarray) and labels.tolist() == [4, 1]
        assert np.array_equal(split.batch(slice(None))["image"], x[[4, 1]])


def test_mirrored_pictures_are_for_models_that_know_them() -> None:
    rows, columns = brightest(2), brightest(3)
    assert is_flip_invariant(rows, labelled(rows))
    assert not is_flip_invariant(columns, labelled(columns))


def test_without_labels_a_model_knows_mirror_images_whose_classes_stay() -> None:
    assert is_flip_invariant(brightest(2), Split({"image": pictures()}))
    assert not is_flip_invariant(brightest(3), Split({"image": pictures()}))


def test_without_classes_or_pictures_nothing_is_mirrored() -> None:
    rows = brightest(2)
    assert not is_flip_invariant(rows, Split({"image": pictures()}, pictures()))
    assert not is_flip_invariant(rows, Split({"words": np.zeros((64, 9), np.int64)}, np.arange(64) % 8))
