"""Training learns, repeats itself bit for bit, changes nothing but weights, and gives up in a clear way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models import Builder, plain, transposed
from netadapt_onnx.data.dataset import Dataset, Scaling, Split
from netadapt_onnx.data.evaluate import accuracy, outputs
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training import remembered_answers
from netadapt_onnx.training.batchnorm import fold, unfold
from netadapt_onnx.training.callbacks import TrainingCallbacks
from netadapt_onnx.training.choose_settings import choose_settings
from netadapt_onnx.training.distillation import Teacher, shared_targets
from netadapt_onnx.training.length import BATCH_SIZE
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.remembered_answers import RememberedAnswers
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.trainer import train

FLOAT = Settings("float32", True, 1)


def dataset(train: int = 640, *, labelled: bool = True, noise: float = 0.8) -> Dataset:
    """Ten fixed patterns under noise: a network of three layers learns them in seconds."""
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((10, 3, 16, 16))

    def split(count: int) -> Split:
        y = rng.integers(0, 10, count)
        x = patterns[y] + noise * rng.standard_normal((count, 3, 16, 16))
        return Split({"image": x.astype(np.float32)}, y if labelled else None)

    return Dataset(split(train), split(200))


def folded_network() -> onnx.ModelProto:
    b = Builder()
    x = b.relu(b.conv("image", 3, 8))
    x = b.relu(b.conv(x, 8, 16, stride=2))
    b.head(x, 16)
    return b.model({"image": ("N", 3, 16, 16)}, {"logits": ("N", 10)})


@pytest.fixture(scope="module")
def trained() -> onnx.ModelProto:
    """A teacher: `plain` trained on the patterns by their labels."""
    return train(plain((8, 16, 16)), dataset(), TrainingOptions(epochs=8, settings=FLOAT)).proto


def with_noise(proto: onnx.ModelProto, noise: float) -> onnx.ModelProto:
    """A network that has lost much of what it knew: noise on every weight, in units of the tensor's own spread."""
    changed, rng = onnx.ModelProto(), np.random.default_rng(2)
    changed.CopyFrom(proto)
    for tensor in changed.graph.initializer:
        if len(tensor.dims) > 1:
            value = numpy_helper.to_array(tensor)
            value = value + noise * value.std() * rng.standard_normal(value.shape)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    return changed


def same(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    return bool(a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True))


def test_cross_entropy_learns(trained: onnx.ModelProto) -> None:
    data = dataset()
    assert accuracy(plain((8, 16, 16)), data.val).value < 0.3
    assert accuracy(trained, data.val).value > 0.9


def test_distillation_learns_without_labels(trained: onnx.ModelProto) -> None:
    data = dataset(labelled=False)
    student = with_noise(trained, 0.5)
    reference = outputs(trained, data.val)
    before = accuracy(student, data.val, reference=reference)
    result = train(student, data, TrainingOptions(epochs=8, lr=0.2, settings=FLOAT), teacher=trained)
    after = accuracy(result.proto, data.val, reference=reference)
    assert after.metric == "agreement"
    assert before.value < 0.6
    assert after.value > 0.85
    assert [e.epoch for e in result.history] == list(range(1, 9))
    assert result.history[-1].steps == 40
    assert result.history[-1].loss < 0.5 * result.history[0].loss


def test_dense_outputs_are_distilled_too() -> None:
    data, teacher = dataset(labelled=False), transposed()
    student = transposed(seed=1)
    result = train(student, data, TrainingOptions(epochs=4, settings=FLOAT), teacher=teacher)
    assert result.history[-1].loss < 0.6 * result.history[0].loss


@pytest.mark.parametrize(
    "settings", [FLOAT, Settings("bfloat16", False, 2), Settings("float32", True, 2), Settings("float32", True, 3)]
)
def test_the_same_seed_and_settings_give_the_same_bits(settings: Settings, trained: onnx.ModelProto) -> None:
    data, student = dataset(320), plain((6, 12, 16), seed=1)
    results = [
        train(student, data, TrainingOptions(steps=5, seed=3, settings=settings), teacher=trained).proto
        for _ in range(2)
    ]
    assert same(*results)
    assert not same(
        results[0], train(student, data, TrainingOptions(steps=5, seed=4, settings=settings), teacher=trained).proto
    )


def test_trainings_that_share_what_the_original_says_come_to_the_same_bits(trained: onnx.ModelProto) -> None:
    """A run that is killed forgets what was remembered: it must not matter. The second one shows more samples."""
    data, settings = dataset(320), Settings("float32", True, 2)
    shared = shared_targets(trained, data.train, settings, 5)
    student = plain((6, 12, 16), seed=1)
    for steps in (1, 3):
        options = TrainingOptions(steps=steps, seed=5, settings=settings)
        remembered = train(student, data, options, teacher=shared)
        fresh = train(student, data, options, teacher=shared_targets(trained, data.train, settings, 5))
        assert same(remembered.proto, fresh.proto)


def test_the_original_is_asked_about_the_samples_that_are_shown(
    trained: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, computed = list[int](), remembered_answers.outputs

    def counted(proto: onnx.ModelProto, split: Split, **options: Any) -> Any:
        numbers.append(len(split))
        return computed(proto, split, **options)

    monkeypatch.setattr(remembered_answers, "outputs", counted)
    data, student = dataset(1000), plain((6, 12, 16), seed=1)
    shared = shared_targets(trained, data.train, FLOAT, 5)
    for _ in range(2):
        train(student, data, TrainingOptions(steps=2, seed=5, settings=FLOAT), teacher=shared)
    assert 2 * BATCH_SIZE <= sum(numbers) < 3 * BATCH_SIZE


def test_trainings_that_ask_at_the_same_time_keep_each_others_answers(trained: onnx.ModelProto) -> None:
    data = dataset(2048)
    expected = outputs(trained, data.train)["logits"]
    for _ in range(5):
        shared = shared_targets(trained, data.train, FLOAT, 5)
        assert isinstance(shared, RememberedAnswers)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(shared.remember, np.array_split(np.arange(2048), 32)))
        answers = shared({}, np.arange(2048), FLOAT)["logits"].numpy()
        np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_teacher_whose_outputs_hold_several_entries_a_sample_is_asked_at_every_step() -> None:
    """Which entries belong to a sample nobody says."""
    b = Builder()
    y = b.fc(b.relu(b.fc("x", 16, 16)), 16, 4)
    pairs = b.node("Reshape", [y, b.constant("pairs", np.array([-1, 2]))], output="y")
    proto = b.model({"x": ("N", 16)}, {pairs: ("M", 2)})
    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    data = Dataset(Split({"x": x}), Split({"x": x[:8]}))
    trained = train(proto, data, TrainingOptions(steps=2, settings=FLOAT), teacher=proto)
    assert np.isfinite(trained.history[-1].loss)


def test_answers_that_there_is_no_memory_for_are_computed_at_every_step(
    trained: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, student = dataset(320), plain((6, 12, 16), seed=1)
    options = TrainingOptions(steps=3, seed=6, settings=FLOAT)
    remembered = train(student, data, options, teacher=trained).proto
    monkeypatch.setattr("netadapt_onnx.training.distillation.MOST_BYTES", 100)
    monkeypatch.setattr(RememberedAnswers, "remember", lambda *_: pytest.fail("there is no memory for that"))
    assert isinstance(shared_targets(trained, data.train, FLOAT, 6), Teacher)
    computed = train(student, data, options, teacher=trained).proto
    for one, other in zip(computed.graph.initializer, remembered.graph.initializer, strict=True):
        value, expected = numpy_helper.to_array(one), numpy_helper.to_array(other)
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_replicas_share_one_step(trained: onnx.ModelProto) -> None:
    """Two replicas differ from one by their BatchNorm batches only: without BatchNorm the gradients are equal."""
    data, network = dataset(256), folded_network()
    b = Builder()
    b.fc(b.node("Flatten", ["image"]), 768, 10, output="logits")
    network = b.model({"image": ("N", 3, 16, 16)}, {"logits": ("N", 10)})
    one, two = (
        train(network, data, TrainingOptions(steps=4, settings=Settings("float32", True, n))).proto for n in (1, 2)
    )
    for a, b_ in zip(one.graph.initializer, two.graph.initializer, strict=True):
        np.testing.assert_allclose(numpy_helper.to_array(a), numpy_helper.to_array(b_), rtol=0, atol=1e-6)


def test_only_weights_change(trained: onnx.ModelProto) -> None:
    before = plain((8, 16, 16))
    for proto in (before, trained):
        names = {t.name for t in proto.graph.initializer}
        assert len(names) == len(proto.graph.initializer)
    stripped = [onnx.ModelProto.FromString(p.SerializeToString()) for p in (before, trained)]
    for proto in stripped:
        del proto.graph.initializer[:]
    assert same(*stripped)
    assert [(t.name, t.dims) for t in before.graph.initializer] == [(t.name, t.dims) for t in trained.graph.initializer]


def test_folded_graphs_train_with_batchnorm_and_return_without() -> None:
    data, student = dataset(), folded_network()
    result = train(student, data, TrainingOptions(epochs=16, settings=FLOAT))
    assert [n.op_type for n in result.proto.graph.node] == [n.op_type for n in student.graph.node]
    assert [t.name for t in result.proto.graph.initializer] == [t.name for t in student.graph.initializer]
    assert accuracy(result.proto, data.val).value > 0.8
    assert any(n.op_type == "BatchNormalization" for n in unfold(student, data.train.sample(64)).graph.node)
    assert fold(result.proto) is result.proto


def test_divergence_is_tried_at_half_the_rate_and_then_reported(trained: onnx.ModelProto) -> None:
    b = Builder()
    b.fc(b.relu(b.fc(b.node("Flatten", ["image"]), 768, 16)), 16, 10, output="logits")
    network = b.model({"image": ("N", 3, 16, 16)}, {"logits": ("N", 10)})
    with pytest.raises(NetadaptError, match=r"diverged, also at half the learning rate \(5e\+37\)") as caught:
        train(network, dataset(), TrainingOptions(epochs=2, lr=1e38, settings=FLOAT))
    assert caught.value.code == "diverged"


def test_bytes_and_scaling_train_like_floats() -> None:
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (256, 3, 16, 16)).astype(np.uint8)
    scaling = Scaling(np.full((3, 1, 1), 0.5, np.float32), np.full((3, 1, 1), 0.25, np.float32))
    y = rng.integers(0, 10, 256)
    floats = Split({"image": scaling(stored)}, y)
    results = [
        train(plain((8, 8, 8)), Dataset(split, split), TrainingOptions(steps=3, settings=FLOAT)).proto
        for split in (floats, Split({"image": stored}, y, {"image": scaling}))
    ]
    assert same(*results)


def test_training_needs_something_to_learn_from() -> None:
    with pytest.raises(NetadaptError, match="labels or a teacher"):
        train(plain(), dataset(labelled=False), TrainingOptions(epochs=1))
    with pytest.raises(NetadaptError, match="either epochs or steps"):
        train(plain(), dataset(), TrainingOptions())


def test_a_teacher_with_other_outputs_is_refused(trained: onnx.ModelProto) -> None:
    with pytest.raises(NetadaptError, match="teacher's outputs 'mask_out' Nx2x16x16 are not the model's 'logits' Nx10"):
        train(plain(), dataset(), TrainingOptions(epochs=1, settings=FLOAT), teacher=transposed())


def test_batches_shrink_where_activations_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(200)
    assert train(plain(), data, TrainingOptions(epochs=1, settings=FLOAT)).history[0].steps == 1
    monkeypatch.setattr("netadapt_onnx.training.memory.MOST_ACTIVATION_BYTES", 2**20)
    result = train(plain(), data, TrainingOptions(epochs=1, settings=FLOAT))
    assert result.history[0].steps > 4
    assert result.lr < 0.05


def test_augmented_samples_are_taught_as_they_are(trained: onnx.ModelProto) -> None:
    data, student = dataset(256), plain((6, 12, 16), seed=1)
    results = [
        train(student, data, TrainingOptions(steps=4, augment=True, settings=FLOAT), teacher=teacher).proto
        for teacher in (trained, Teacher(trained))
    ]
    assert same(*results)
    assert not same(results[0], train(student, data, TrainingOptions(steps=4, settings=FLOAT), teacher=trained).proto)


def test_no_steps_change_nothing() -> None:
    proto = plain()
    result = train(proto, dataset(), TrainingOptions(epochs=0, settings=FLOAT))
    assert same(result.proto, proto)
    assert result.history == ()


def test_progress_is_told() -> None:
    reports: list[tuple[int, int]] = []
    train(
        plain(),
        dataset(),
        TrainingOptions(steps=3, settings=FLOAT),
        callbacks=TrainingCallbacks(progress=lambda done, total, loss: reports.append((done, total))),
    )
    assert reports == [(1, 3), (2, 3), (3, 3)]


def test_few_samples_make_small_batches() -> None:
    result = train(plain(), dataset(20), TrainingOptions(epochs=3, settings=FLOAT))
    assert [e.steps for e in result.history] == [1, 2, 3]


@pytest.mark.parametrize("labelled", [True, False])
def test_chosen_settings_are_complete(labelled: bool) -> None:
    data = dataset(256, labelled=labelled)
    settings = choose_settings(plain(), data)
    assert settings.dtype in ("float32", "bfloat16")
    assert settings.replicas >= 1


def test_a_batch_that_cannot_be_changed_is_said() -> None:
    """The batch is merged behind the positions, as torch's attention does: nobody can tell which axis it went into."""
    b = Builder()
    x = b.node("Transpose", ["x"], perm=[1, 0, 2])
    x = b.node("Reshape", [x, b.constant("merged", np.array([5, 6]))])
    b.node("MatMul", [x, b.random("w", (6, 4), 6)], output="y")
    proto = b.model({"x": (1, 5, 6)}, {"y": (5, 4)})
    split = Split({"x": np.zeros((8, 5, 6), np.float32)})
    with pytest.raises(NetadaptError, match=r"fixes its batch at 1, .* two samples: mat1 and mat2") as caught:
        train(proto, Dataset(split, split), TrainingOptions(epochs=1, settings=FLOAT), teacher=proto)
    assert "dynamic batch" in caught.value.hint
