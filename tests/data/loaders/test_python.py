"""`FILE.py:FUNCTION` as data: loaders, loss, metric and training of the user's own, and what is said of wrong ones."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import netadapt_onnx as na
from netadapt_onnx.common.user_code import called
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.data.load_dataset import read_dataset
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.executors.opening import opened_executor
from netadapt_onnx.search.executors.protocol import JobResult, Shared, WorkerInfo
from task_models import many, regressor

HEADER = """
import torch
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

torch.manual_seed(0)
x = torch.randn(96, 8)
y = torch.stack([3 * torch.maximum(x[:, 0], x[:, 1]), x[:, 2]], 1)

def loader(rows=slice(None), **options):
    return DataLoader(TensorDataset(x[rows], y[rows]), batch_size=32, **options)
"""
SPECS = {"x": ((1, 8), np.dtype(np.float32))}
OUTPUTS = {"values": (1, 2)}


def code(folder: Path, body: str) -> str:
    """A file whose function `make` has this body."""
    (folder / "own.py").write_text(f"{HEADER}\ndef make():\n" + "".join(f"    {line}\n" for line in body.splitlines()))
    return f"{folder / 'own.py'}:make"


def read(folder: Path, body: str) -> Dataset:
    return read_dataset(code(folder, body), SPECS, OUTPUTS)


def test_loaders_are_splits(tmp_path: Path) -> None:
    data = read(tmp_path, "return loader(slice(64), shuffle=True), loader(slice(64, 80)), loader(slice(80, 96))")
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (64, 16, 16)
    assert (data.train.metric, data.train.varies, data.val.varies) == ("r2", True, False)
    torch.manual_seed(0)
    x = torch.randn(96, 8).numpy()
    np.testing.assert_array_equal(data.test.batch(slice(2, 5))["x"], x[82:85])
    expected = np.stack([3 * np.maximum(x[:, 0], x[:, 1]), x[:, 2]], 1)
    np.testing.assert_array_equal(data.train.targets(np.array([7, 3])), expected[[7, 3]])


def test_whatever_chooses_its_own_samples_is_read_once(tmp_path: Path) -> None:
    body = """
def batches():
    for start in range(0, 96, 32):
        yield x[start:start + 32], y[start:start + 32]
return {"train": loader(sampler=SubsetRandomSampler(range(10))), "val": batches()}"""
    data = read(tmp_path, body)
    assert (len(data.train), len(data.val)) == (10, 96)
    assert not data.train.varies


def test_samples_that_change_are_not_remembered(tmp_path: Path) -> None:
    body = """
class Noisy(torch.utils.data.Dataset):
    def __len__(self): return 64
    def __getitem__(self, i): return x[i] + torch.randn(8), y[i]
return DataLoader(Noisy(), batch_size=16), loader()"""
    data = read(tmp_path, body)
    first, second = (data.train.batch(np.arange(4))["x"] for _ in range(2))
    data.train.batch(np.arange(8))
    third = data.train.batch(np.arange(4))["x"]
    np.testing.assert_array_equal(first, second)  # inputs and labels of one step are of one reading
    assert not np.array_equal(first, third)


def test_inputs_and_outputs_go_by_name_or_in_order(tmp_path: Path) -> None:
    specs = {"image": ((1, 3, 8, 8), np.dtype(np.float32)), "numbers": ((1, 4), np.dtype(np.float32))}
    outputs = {"logits": (1, 4), "value": (1, 1), "map": (1, 2, 8, 8)}
    body = """
image, numbers = torch.randn(20, 3, 8, 8), torch.randn(20, 4)
labels = numbers.argmax(1), numbers[:, 0], (image[:, 0] > 0).long()
named = [{"image": image, "numbers": numbers}], dict(zip(("logits", "value", "map"), labels))
return [((image, numbers), labels)], [(named[0][0], named[1])]"""
    data = read_dataset(code(tmp_path, body), specs, outputs)
    assert data.train.metric == data.val.metric == "top1+r2+miou"
    for name, values in data.train.batch(slice(None)).items():
        np.testing.assert_array_equal(values, data.val.batch(slice(None))[name])
    kinds = {name: (v.dtype.kind, v.shape) for name, v in data.val.targets().items()}  # type: ignore[union-attr]
    assert kinds == {"logits": ("i", (20,)), "value": ("f", (20, 1)), "map": ("i", (20, 8, 8))}


OWN = """
def absolute(outputs, labels):
    return (outputs["values"] - labels).abs().mean()
def negative_error(outputs, labels):
    return -float(abs(outputs["values"] - labels).mean())
return {"train": loader(), "val": loader(), "loss": absolute, "metric": negative_error}"""


def model_file(folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(regressor().SerializeToString())
    return folder / "model.onnx"


@pytest.mark.seconds
def test_a_loss_and_a_metric_of_ones_own(tmp_path: Path) -> None:
    model, data = model_file(tmp_path), code(tmp_path, OWN)
    result = na.finetune(model, data, tmp_path / "tuned.onnx", epochs=30, lr=0.05)
    assert result.accuracy.metric == "negative_error"
    assert result.accuracy.before < -1
    assert result.accuracy.after > 0.5 * result.accuracy.before
    distilled = na.finetune(model, data, tmp_path / "taught.onnx", teacher=model, epochs=1, lr=1e-4)
    assert distilled.accuracy.after == pytest.approx(result.accuracy.before, rel=0.1)


def test_a_torchmetrics_metric(tmp_path: Path) -> None:
    body = "import torchmetrics\nreturn {'train': loader(), 'val': loader(), 'metric': torchmetrics.R2Score(2)}"
    body = body.replace("R2Score(2)", "R2Score(multioutput='variance_weighted')")
    model = model_file(tmp_path)
    (theirs,) = na.evaluate(model, code(tmp_path, body), timed=False).models
    (ours,) = na.evaluate(model, code(tmp_path, "return loader(), loader()"), timed=False).models
    assert (theirs.metric, ours.metric) == ("R2Score", "r2")
    assert theirs.accuracy == pytest.approx(ours.accuracy, rel=1e-4)


def test_a_training_function_of_ones_own(tmp_path: Path) -> None:
    body = """
def training(module, *, teacher, steps, lr, seed):
    assert teacher is None and steps == 6 and seed == 3
    optimiser = torch.optim.Adam(module.parameters(), lr=lr)
    for _ in range(40):
        for inputs, labels in loader():
            optimiser.zero_grad()
            ((module({"x": inputs})["values"] - labels) ** 2).mean().backward()
            optimiser.step()
return {"train": loader(), "val": loader(), "training": training}"""
    model = model_file(tmp_path)
    result = na.finetune(model, code(tmp_path, body), tmp_path / "tuned.onnx", epochs=6, lr=0.01, seed=3)
    assert result.accuracy.after > 0.8 > result.accuracy.before


TENSORS = "return loader(), loader()"
WRONG: dict[str, tuple[str, str]] = {
    "nothing": ("pass", r"own.py:make returned NoneType; return \(train, val\) or"),
    "one loader alone": ("return loader()", r"returned DataLoader; return \(train, val\) or"),
    "no loader": ("return 1, 2", "'train' is int, which is no loader"),
    "a dict of something else": ("return {'training_data': loader()}", "a dict with 'training_data'; known are train"),
    "a loss that is none": ("return {'train': loader(), 'loss': 'mse'}", "'loss' is str; give a function"),
    "a metric that is none": ("return {'train': loader(), 'metric': 3}", "'metric' is int; give a function"),
    "no samples": ("return [], []", "train holds no samples"),
    "an error": ("raise RuntimeError('disk gone')", "own.py:make failed: RuntimeError: disk gone"),
    "three parts": ("return [(x, y, y)], []", r"a batch of 3 parts; a batch is \(inputs, labels\)"),
    "words": ("return [(['a'], y)], []", "inputs hold str; a batch is"),
    "another shape": ("return [(x[:, :5], y)], []", r"'x' is float32 of shape 96x5, but the model takes float32 Nx8"),
    "doubles": ("return [(x.double(), y)], []", r"input 'x' is float64 of shape 96x8"),
    "no number": ("return [(x / 0, y)], []", "input 'x' holds NaN or infinity"),
    "labels that fit nothing": ("return [(x, y[:, :1])], []", r"of shape 96x1 .* fits none of the model's outputs"),
    "unknown labels": ("return [(x, {'other': y})], []", "labels 'other'; the model's outputs are values"),
    "too few labels": ("return [(x, y[:5])], []", "labels has shape 5x2, but there are 96 samples"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_functions_are_told_what_is_expected(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(NetadaptError, match=message):
        read(tmp_path, body)


LATE: dict[str, tuple[str, str]] = {
    "a loss of many numbers": ("'loss': lambda o, y: o['values'] - y", r"a tensor of shape \(96, 2\); return one"),
    "a loss that fails": ("'loss': lambda o, y: o['scores'].mean()", r"the loss of .* failed: KeyError: 'scores'"),
    "a loss of no tensor": ("'loss': lambda o, y: 1.0", "returned float; return one number"),
    "a loss of something else": ("'loss': lambda o, y: y.mean()", "does not depend on the model's outputs"),
    "a metric of no number": ("'metric': lambda o, y: o", "the metric <lambda> failed: TypeError"),
    "a metric that is NaN": ("'metric': lambda o, y: float('nan')", "is nan: a finite number is expected"),
    "a training that fails": ("'training': lambda module: None", r"failed: TypeError.* called as training\(module"),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "message"), LATE.values(), ids=LATE.keys())
def test_functions_that_return_something_else_are_told(entry: str, message: str, tmp_path: Path) -> None:
    data = code(tmp_path, f"return {{'train': [(x, y)], 'val': [(x, y)], {entry}}}")
    with pytest.raises(NetadaptError, match=message):
        na.finetune(model_file(tmp_path), data, tmp_path / "tuned.onnx", epochs=1)


def test_unlabelled_loaders_are_learnt_from_the_teacher(tmp_path: Path) -> None:
    body = "data = DataLoader(TensorDataset(x), batch_size=32)\nreturn data, data"
    model = model_file(tmp_path)
    with pytest.raises(NetadaptError, match="has no labels; give the original model as --teacher"):
        na.finetune(model, code(tmp_path, body), tmp_path / "tuned.onnx")
    result = na.finetune(model, code(tmp_path, body), tmp_path / "tuned.onnx", teacher=model, epochs=1, lr=1e-4)
    assert result.accuracy.metric == "agreement"


def test_gate_runs_no_code(tmp_path: Path) -> None:
    (tmp_path / "many.onnx").write_bytes(many().SerializeToString())
    data = code(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\nreturn loader(), loader()")
    (gated,) = na.gate([str(tmp_path / "many.onnx")], min={"accuracy": 0.5}, data=data).models
    assert "files and folders only" in gated.checks[0].message
    assert not (tmp_path / "ran").exists()


FOLDER_OF_ITS_OWN = """
import importlib
import json
import sys
from pathlib import Path

import neighbour_{n}

sys.path.insert(0, str(Path(__file__).parent / "lib"))


class Rows:
    def __len__(self):
        return 12

    def __getitem__(self, row):
        import inside_{n}
        import beside_{n}

        return torch.full((8,), inside_{n}.VALUE + beside_{n}.VALUE + row)


def make():
    import library_{n}

    return DataLoader(Rows(), batch_size=4), DataLoader(Rows(), batch_size=4)
"""


@pytest.fixture
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def with_imports(folder: Path, number: int) -> str:
    """A file that puts a folder on the import path, and imports from it and from its own folder early and late."""
    (folder / "lib").mkdir()
    for name in ("lib/library", "lib/inside", "beside", "neighbour"):
        (folder / f"{name}_{number}.py").write_text("VALUE = 1.0\n")
    (folder / "own.py").write_text(HEADER + FOLDER_OF_ITS_OWN.replace("{n}", str(number)))
    return f"{folder / 'own.py'}:make"


@pytest.mark.usefixtures("own_path")
def test_a_file_keeps_what_it_puts_on_the_import_path(tmp_path: Path) -> None:
    """Its functions import when they are called, from folders of its own and from its neighbours."""
    before = list(sys.path)
    data = read_dataset(with_imports(tmp_path, 1), SPECS, OUTPUTS)
    np.testing.assert_array_equal(data.val.batch(np.array([3]))["x"], np.full((1, 8), 5.0))
    assert sys.path == [str(tmp_path / "lib"), *before, str(tmp_path)]
    again = read_dataset(f"{tmp_path / 'own.py'}:make", SPECS, OUTPUTS)
    assert len(again.val) == 12
    assert sys.path.count(str(tmp_path)) == 1


@pytest.mark.usefixtures("own_path")
def test_a_failing_file_leaves_the_import_path_as_the_file_left_it(tmp_path: Path) -> None:
    before = list(sys.path)
    (tmp_path / "own.py").write_text("import sys\nsys.path.insert(0, 'mine')\nraise RuntimeError('no')\n")
    with pytest.raises(NetadaptError, match="RuntimeError: no"):
        read_dataset(f"{tmp_path / 'own.py'}:make", SPECS, OUTPUTS)
    assert sys.path == ["mine", *before, str(tmp_path)]


def summed(worker: WorkerInfo, split: Split, request: Mapping[str, Any]) -> JobResult:
    return JobResult({"sum": float(split.batch(np.array(request["rows"]))["x"].sum())})


@pytest.mark.seconds
@pytest.mark.usefixtures("own_path")
def test_worker_processes_import_as_the_file_does(tmp_path: Path) -> None:
    data = read_dataset(with_imports(tmp_path, 2), SPECS, OUTPUTS)
    with opened_executor("local:1", 1, timeout_s=60.0) as executor:
        (outcome,) = executor.run(summed, [Shared(data.train)], [{"rows": [0, 1]}], lambda *_: None)
    assert isinstance(outcome, JobResult), outcome
    assert outcome.result == {"sum": 8 * (2.0 + 3.0)}


@pytest.mark.usefixtures("own_path")
def test_unlabelled_training_loaders_stand_beside_labelled_ones(tmp_path: Path) -> None:
    data = read(tmp_path, "return DataLoader(TensorDataset(x), batch_size=32), loader(slice(16)), loader(slice(32))")
    assert data.test is not None
    assert [split.metric for split in (data.train, data.val, data.test)] == ["agreement", "r2", "r2"]
    with pytest.raises(NetadaptError, match="labels for some splits only; add y_val"):
        read(tmp_path, "return loader(), DataLoader(TensorDataset(x), batch_size=32)")


@pytest.mark.usefixtures("own_path")
def test_files_of_one_name_are_each_imported_as_themselves(tmp_path: Path) -> None:
    for folder, value in (("first", 1), ("second", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_name.py").write_text(f"VALUE = {value}\ndef function():\n    return function\n")
        function = called(f"{tmp_path / folder / 'same_name.py'}:function", by_name=True)
        assert value == importlib.import_module(function.__module__).VALUE
    (tmp_path / "first" / "same_name.py").write_text("raise SystemExit(3)")
    with pytest.raises(NetadaptError, match="SystemExit"):
        called(f"{tmp_path / 'first' / 'same_name.py'}:function", by_name=True)
    (tmp_path / "json.py").write_text("def function():\n    return function\n")
    called(f"{tmp_path / 'json.py'}:function", by_name=True)
    assert json.loads("1") == 1 and sys.modules["json"] is json
