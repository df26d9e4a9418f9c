"""`finetune`: goes on where it was killed, to the same bits; says what it chose; refuses what cannot work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import netadapt_onnx as na
from models import Builder
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.callbacks import TrainingCallbacks
from netadapt_onnx.training.checkpoint import Checkpoint
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.recipe import Recipe
from netadapt_onnx.training.replicas import Replicas
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.trainer import TrainResult, train
from training_cases import FLOAT, KilledError, dataset, killed_at, network, split


def dense(inputs: int = 192) -> onnx.ModelProto:
    """No BatchNorm, and none to give back."""
    b = Builder()
    b.fc(b.relu(b.fc(b.node("Flatten", ["image"]), inputs, 16)), 16, 10, output="logits")
    return b.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 10)})


def weights(proto: onnx.ModelProto) -> bytes:
    return b"".join(numpy_helper.to_array(t).tobytes() for t in proto.graph.initializer)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    model, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    onnx.save(network(), model)
    train_, val = split(320, 1), split(100, 2)
    np.savez(
        data, x_train=train_.inputs["image"], y_train=train_.labels, x_val=val.inputs["image"], y_val=val.labels
    )  # fmt: skip
    return model, data


@pytest.fixture(autouse=True)
def settings_do_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netadapt_onnx.training.choose_settings.choose", lambda *_, **__: FLOAT)


RECIPES = {
    "sgd": Recipe(),
    "adamw": Recipe("adamw", "cosine"),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_training_that_is_interrupted_anywhere_goes_on_to_the_same_bits(
    recipe: Recipe, replicas: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netadapt_onnx.training.loop.SAVED_EVERY_S", 0.0)
    data, settings = dataset(), Settings("float32", True, replicas)

    def run(folder: str, stop: int | None) -> TrainResult:
        (tmp_path / folder).mkdir(exist_ok=True)

        return train(
            network(1),
            data,
            TrainingOptions(epochs=3, batch_size=64, settings=settings, recipe=recipe),
            teacher=network(),
            checkpoint=tmp_path / folder / "c",
            callbacks=TrainingCallbacks(progress=killed_at(stop)),
        )

    uninterrupted = run("whole", None)
    for stop in (3, 5, 9, 11):
        with pytest.raises(KilledError):
            run("parts", stop)
    resumed = run("parts", None)
    assert weights(resumed.proto) == weights(uninterrupted.proto)
    assert [(e.steps, e.loss) for e in resumed.history] == [(e.steps, e.loss) for e in uninterrupted.history]


KILLED = """
import os, signal, sys
import netadapt_onnx.training.loop
import netadapt_onnx as na

netadapt_onnx.training.loop.SAVED_EVERY_S = 0.0
model, data, output, step = *sys.argv[1:4], int(sys.argv[4])
def progress(done, total, text):
    if done == step:
        os.kill(os.getpid(), signal.SIGKILL)
na.finetune(model, data, output, epochs=2, batch_size=64, resume=True, progress=progress)
"""


def test_finetune_killed_goes_on_from_its_checkpoint(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = files
    output = tmp_path / "tuned.onnx"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(model), str(data), str(output), "7"], env=dict(os.environ), check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not output.exists()
    checkpoint = tmp_path / "tuned.onnx.checkpoint"
    with pytest.raises(NetadaptError, match="a training that was not finished") as caught:
        na.finetune(model, data, output, epochs=2)
    assert "--resume" in caught.value.hint
    with pytest.raises(NetadaptError, match="belongs to another training: epochs is 2 there, 3 here"):
        na.finetune(model, data, output, epochs=3, batch_size=64, resume=True)
    recorded = torch.load(checkpoint)["settings"]
    steps: list[int] = []
    resumed = na.finetune(
        model, data, output, epochs=2, batch_size=64, resume=True, progress=lambda d, *_: steps.append(d)
    )
    assert min(steps) >= 7
    assert resumed.settings == recorded
    assert not checkpoint.exists()
    assert [json.loads(line)["steps"] for line in resumed.log.read_text().splitlines()] == [5, 10]
    monkeypatch.setattr("netadapt_onnx.training.choose_settings.choose", lambda *_, **__: Settings(**recorded))
    uninterrupted = na.finetune(model, data, tmp_path / "whole.onnx", epochs=2, batch_size=64)
    assert resumed.evaluations == uninterrupted.evaluations
    assert weights(onnx.load(output)) == weights(onnx.load(uninterrupted.model))


def test_a_broken_checkpoint_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "o.onnx.checkpoint").write_bytes(b"not this")
    with pytest.raises(NetadaptError, match=r"o.onnx.checkpoint is not readable as a checkpoint"):
        na.finetune(*files, tmp_path / "o.onnx", resume=True)


def test_the_range_test_finds_a_rate_that_learns_and_changes_no_weight(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    tuned = na.finetune(*files, tmp_path / "o.onnx", epochs=6, batch_size=32, lr="auto")
    assert tuned.lr_test is not None
    assert tuned.lr == tuned.lr_test["chosen"]
    assert min(tuned.lr_test["rates"]) < 1e-3 * max(tuned.lr_test["rates"])
    assert tuned.accuracy.after > 0.9
    fixed = na.finetune(*files, tmp_path / "f.onnx", epochs=6, batch_size=32, lr=tuned.lr)
    assert fixed.lr_test is None
    assert weights(onnx.load(tmp_path / "f.onnx")) == weights(onnx.load(tmp_path / "o.onnx"))


def test_training_from_scratch_forgets_what_was_there_and_learns(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    result = na.finetune(model, data, tmp_path / "o.onnx", epochs=8, lr=0.1, batch_size=32, from_scratch=True)
    assert result.accuracy.after > 0.8
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:  # whatever was in the file
        if len(tensor.dims) > 1:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 7, tensor.name))
    onnx.save(proto, tmp_path / "other.onnx")
    again = na.finetune(
        tmp_path / "other.onnx", data, tmp_path / "p.onnx", epochs=8, lr=0.1, batch_size=32, from_scratch=True
    )
    assert weights(onnx.load(again.model)) == weights(onnx.load(result.model))


def test_memory_that_ends_halves_the_batch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Replicas.gradients

    def scarce(self: Replicas, fetch: object, rows: np.ndarray) -> float:
        if len(rows) > 40:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")
        return real(self, fetch, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Replicas, "gradients", scarce)
    messages: list[str] = []
    result = train(
        network(),
        dataset(),
        TrainingOptions(epochs=1, settings=FLOAT),
        callbacks=TrainingCallbacks(log=messages.append),
    )
    assert result.batch_size == 32
    assert result.history[0].steps == 10
    assert messages == [
        f"out of memory with batches of {n}: training starts anew with batches of {n // 2}" for n in (128, 64)
    ]
    monkeypatch.setattr(
        Replicas, "gradients", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    )
    with pytest.raises(NetadaptError, match="out of memory, even with batches of 2") as caught:
        train(network(), dataset(), TrainingOptions(epochs=1, settings=FLOAT))
    assert caught.value.code == "out-of-memory"


def test_a_batch_of_one_is_refused_where_batchnorm_needs_more() -> None:
    with pytest.raises(NetadaptError, match="batches of one sample leave BatchNorm nothing to normalise by"):
        train(network(), dataset(), TrainingOptions(epochs=1, batch_size=1, settings=FLOAT))
    assert (
        train(dense(), dataset(8), TrainingOptions(epochs=1, batch_size=1, lr=1e-3, settings=FLOAT)).history[0].steps
        == 8
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"weight_decay": -1.0}, "--weight-decay -1: at least 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    option: dict[str, float], message: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(NetadaptError, match=message):
        na.finetune(*files, tmp_path / "o.onnx", **option)  # type: ignore[arg-type]


def test_tensorboard_gets_what_the_log_has(files: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    na.finetune(*files, tmp_path / "o.onnx", epochs=2, lr=0.05, tensorboard=tmp_path / "events")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    logged = [json.loads(line)["loss"] for line in (tmp_path / "o.training.jsonl").read_text().splitlines()]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(logged)


def test_tensorboard_that_is_not_installed_is_named(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(NetadaptError, match="--tensorboard needs TensorBoard") as caught:
        na.finetune(*files, tmp_path / "o.onnx", tensorboard=tmp_path / "events")
    assert "netadapt-onnx[tensorboard]" in caught.value.hint


def test_finetune_with_augmentation_sees_other_pictures(files: tuple[Path, Path], tmp_path: Path) -> None:
    plainly = na.finetune(*files, tmp_path / "a.onnx", epochs=1, lr=0.05)
    moved = na.finetune(*files, tmp_path / "b.onnx", epochs=1, lr=0.05, augment=True)
    assert weights(onnx.load(plainly.model)) != weights(onnx.load(moved.model))


def test_finetune_writes_what_validation_samples_like_best_and_says_where_that_is_what_was_there(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    good = na.finetune(*files, tmp_path / "good.onnx", epochs=6, batch_size=32, lr=0.05)
    assert good.evaluations[0]["step"] == 0 and len(good.evaluations) > 2
    assert max(one["accuracy"] for one in good.evaluations) == good.accuracy.after > good.evaluations[0]["accuracy"]
    assert good.notes == ()
    spoilt = na.finetune(good.model, files[1], tmp_path / "spoilt.onnx", epochs=1, batch_size=32, lr=30.0)
    assert spoilt.accuracy.after == spoilt.accuracy.before
    assert spoilt.notes[-1].startswith("Fine-tuning did not improve accuracy, so the weights are as they were (")
    assert weights(onnx.load(spoilt.model)) == weights(onnx.load(good.model))


def test_a_checkpoint_of_an_option_that_is_gone_is_refused_where_it_was_on(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    Checkpoint(file, {"seed": 1, "gone": 0.0}).put(steps=3)
    assert Checkpoint(file, {"seed": 1}).content["steps"] == 3
    file.unlink()
    Checkpoint(file, {"seed": 1, "gone": 0.5}).put()
    with pytest.raises(NetadaptError, match=r"gone is 0\.5 there, None here; use the version that began it"):
        Checkpoint(file, {"seed": 1})
