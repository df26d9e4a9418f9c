"""Whole commands on other tasks than classification: they train, are judged by their own metric, and can be cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import netadapt_onnx as na
from netadapt_onnx.data.source import DataSource
from netadapt_onnx.errors import NetadaptError
from task_models import (
    Arrays,
    arrays,
    many,
    many_data,
    recurrent,
    regression_data,
    regressor,
    segmentation_data,
    sequence_data,
    unet,
)

Data = Callable[[int, int], tuple[Arrays, Arrays]]
# A model, its data, its metric and what training must bring it to; the untrained ones are near chance.
TASKS: dict[str, tuple[Callable[[], onnx.ModelProto], Data, str, float]] = {
    "regression": (regressor, regression_data, "r2", 0.6),
    "segmentation U-Net": (unet, segmentation_data, "miou", 0.75),
    "LSTM": (recurrent, sequence_data, "top1", 0.75),
    "two inputs, three outputs": (many, many_data, "top1+r2+miou", 0.8),
}


def written(folder: Path, task: str, *, labelled: bool = True) -> tuple[Path, Path]:
    make, data, _, _ = TASKS[task]
    (folder / "model.onnx").write_bytes(make().SerializeToString())
    stored = arrays(data(1024, 1), "train") | arrays(data(256, 2), "val")
    np.savez(folder / "data.npz", **{n: v for n, v in stored.items() if labelled or n.startswith("x")})
    return folder / "model.onnx", folder / "data.npz"


@pytest.mark.parametrize("task", TASKS)
def test_any_task_is_trained_and_judged_by_its_own_metric(task: str, tmp_path: Path) -> None:
    model, data = written(tmp_path, task)
    result = na.finetune(model, data, tmp_path / "tuned.onnx", epochs=10, lr=0.1)
    assert result.accuracy.metric == TASKS[task][2]
    assert result.accuracy.after > max(TASKS[task][3], result.accuracy.before + 0.1), result.accuracy
    (evaluation,) = na.evaluate(tmp_path / "tuned.onnx", data, timed=False).models
    assert evaluation.accuracy == pytest.approx(result.accuracy.after, abs=1e-6)
    before, after = onnx.load(model).graph, onnx.load(tmp_path / "tuned.onnx").graph
    assert [node.name for node in after.node] == [node.name for node in before.node]


# An untrained LSTM always answers the same class, cut or not.
@pytest.mark.parametrize("task", [task for task in TASKS if task != "LSTM"])
def test_without_labels_the_teacher_is_learnt_from(task: str, tmp_path: Path) -> None:
    model, data = written(tmp_path, task, labelled=False)
    small, solved = tmp_path / "small.onnx", tmp_path / "solved.onnx"
    na.prune(model, small, ratio=0.5)
    na.prune(model, solved, ratio=0.5, data=data)
    own, cut, better = (one.accuracy for one in na.evaluate([model, small, solved], data, timed=False).models)
    assert own == 1
    assert better > cut
    result = na.finetune(small, data, tmp_path / "tuned.onnx", teacher=model, epochs=8, lr=0.05)
    assert result.accuracy.metric == "agreement"
    assert result.accuracy.before == pytest.approx(cut, abs=1e-6)
    assert result.accuracy.after > cut + 0.05, result.accuracy


def test_a_regression_and_a_segmentation_are_adapted(tmp_path: Path) -> None:
    for task in ("regression", "segmentation U-Net"):
        folder = tmp_path / task
        folder.mkdir()
        model, data = written(folder, task)
        result = na.adapt(model, data, "macs=0.8x", folder / "run", final_epochs=1, init_reduction_ratio=0.2)
        assert result.met
        assert result.accuracy.metric == TASKS[task][2]


def test_distillation_leaves_labels_to_the_metric(tmp_path: Path) -> None:
    model, data = written(tmp_path, "LSTM")
    source = DataSource(str(data), task="distillation")
    with pytest.raises(NetadaptError, match="has no labels; give the original model as --teacher"):
        na.finetune(model, source, tmp_path / "tuned.onnx")
    result = na.finetune(model, source, tmp_path / "tuned.onnx", teacher=model, epochs=1, lr=1e-4)
    assert result.accuracy.metric == "top1"
    assert abs(result.accuracy.after - result.accuracy.before) < 0.05


@pytest.mark.usefixtures("fixed_training_settings")
def test_unlabelled_training_samples_are_judged_by_labels(tmp_path: Path) -> None:
    """The original's answers teach; labels of the other splits say what came of it, in every command."""
    model, data = written(tmp_path, "LSTM")
    arrays = dict(np.load(data))
    labels = arrays.pop("y_train")
    np.savez(data, **arrays)
    small = tmp_path / "small.onnx"
    na.prune(model, small, ratio=0.5, data=data)
    tuned = na.finetune(small, data, tmp_path / "tuned.onnx", teacher=model, epochs=2, lr=0.02)
    assert (tuned.accuracy.metric, tuned.accuracy.split) == ("top1", "val")
    result = na.adapt(model, data, "macs=0.8x", tmp_path / "run", final_epochs=1, init_reduction_ratio=0.2)
    assert result.met
    assert result.accuracy.metric == "top1"
    scaled = na.scale(
        model, data, target="params=0.6x", method="uniform", out=tmp_path / "scaled", seeds=1, epochs=1
    )  # fmt: skip
    assert scaled.models[0].accuracy is not None
    assert scaled.models[0].accuracy.metric == "top1"
    with pytest.raises(NetadaptError, match="the train split has no labels; give the original model as --teacher"):
        na.finetune(model, data, tmp_path / "other.onnx")
    # Labelled test samples alone: choices are made by agreement, what is quoted is not.
    test = {"x_train": arrays["x_train"], "x_test": arrays["x_val"], "y_test": arrays["y_val"]}
    np.savez(data, **test)
    result = na.adapt(model, data, "macs=0.8x", tmp_path / "other", final_epochs=0, init_reduction_ratio=0.2)
    assert (result.accuracy.metric, result.accuracy.split) == ("top1", "test")
    assert len(labels) == len(arrays["x_train"])
