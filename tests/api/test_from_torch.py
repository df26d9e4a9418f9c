"""Trained by a loop of somebody's own, the file is the same but for its weights, and computes what the module does."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import models
import netadapt_onnx
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.training.onnx_module import OnnxModule


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A pruned model."""
    onnx.save(models.residual(16, size=8), tmp_path / "model.onnx")
    netadapt_onnx.prune(tmp_path / "model.onnx", tmp_path / "small.onnx", ratio=0.5)
    return tmp_path / "small.onnx"


def samples(count: int = 128) -> tuple[Tensor, Tensor]:
    """Images whose brightest channel is their class, of three."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randn(count, 3, 8, 8, generator=generator)
    images[torch.arange(count), labels] += 1.5
    return images, labels


def accuracy_of(file: Path) -> float:
    images, labels = samples()
    (logits,) = run(session(onnx.load(file)), {"image": images.numpy()}).values()
    return float((logits.argmax(1) == labels.numpy()).mean())


def skeleton(file: Path) -> bytes:
    """A file without the values of its weights, and without where it comes from."""
    proto = onnx.load(file)
    for tensor in proto.graph.initializer:
        tensor.ClearField("raw_data")
    del proto.metadata_props[:]
    return proto.SerializeToString(deterministic=True)


def test_a_bare_loop_trains_it(small: Path, tmp_path: Path) -> None:
    images, labels = samples()
    module = netadapt_onnx.to_torch(small)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(8):
        for rows in torch.arange(len(images)).split(32):
            optimizer.zero_grad()
            logits = module(images[rows])
            assert isinstance(logits, Tensor)
            torch.autograd.backward(nn.functional.cross_entropy(logits, labels[rows]))
            optimizer.step()
    file = netadapt_onnx.from_torch(module, tmp_path / "tuned.onnx")
    assert accuracy_of(file) > max(0.9, accuracy_of(small) + 0.2)
    assert skeleton(file) == skeleton(small)
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer} for path in (small, file)
    )
    assert all(not np.array_equal(before[name], after[name]) for name in module.state_dict())
    assert set(module.state_dict()) == set(before)
    with torch.no_grad():
        expected = module.eval()(images)
    assert isinstance(expected, Tensor)
    (logits,) = run(session(onnx.load(file)), {"image": images.numpy()}).values()
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-4 * float(expected.std()))
    metadata = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert metadata["netadapt_onnx.command"] == "from_torch"


def lightning() -> Any:
    """Lightning, which warns of much when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("lightning")
        except ModuleNotFoundError:
            pytest.skip("lightning is not installed: it is one of the development tools (`make install`)")


@pytest.mark.filterwarnings("ignore")
def test_lightnings_loop_trains_it(small: Path, tmp_path: Path) -> None:
    library = lightning()

    class Training(library.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = netadapt_onnx.to_torch(small)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            logits = self.network(batch[0])
            assert isinstance(logits, Tensor)
            return nn.functional.cross_entropy(logits, batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*samples()), 32, shuffle=True)
    training = Training()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = library.Trainer(max_epochs=8, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(training, loader)
    file = netadapt_onnx.from_torch(training, tmp_path / "tuned.onnx")
    assert accuracy_of(file) > max(0.9, accuracy_of(small) + 0.2)
    assert skeleton(file) == skeleton(small)
    # Its checkpoint holds the file's names behind the attribute's.
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert {name.removeprefix("network.") for name in state} == set(netadapt_onnx.to_torch(small).state_dict())


def test_an_average_of_weights_is_written_as_it_is(small: Path, tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(netadapt_onnx.to_torch(small))
    netadapt_onnx.from_torch(averaged, tmp_path / "average.onnx")
    assert skeleton(tmp_path / "average.onnx") == skeleton(small)


def test_nothing_is_overwritten_unasked_and_the_input_never(small: Path, tmp_path: Path) -> None:
    module = netadapt_onnx.to_torch(small)
    content = small.read_bytes()
    with pytest.raises(NetadaptError, match="never overwritten"):
        netadapt_onnx.from_torch(module, small, overwrite=True)
    file = netadapt_onnx.from_torch(module, tmp_path / "tuned.onnx")
    with pytest.raises(NetadaptError, match="exists"):
        netadapt_onnx.from_torch(module, file)
    netadapt_onnx.from_torch(module, file, overwrite=True)
    assert small.read_bytes() == content


def test_other_modules_and_broken_weights_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(NetadaptError, match=r"Linear was not made by to_torch; .*export_module"):
        netadapt_onnx.from_torch(nn.Linear(2, 2), tmp_path / "out.onnx")
    module = netadapt_onnx.to_torch(small)
    with pytest.raises(NetadaptError, match="contains 2 modules"):
        netadapt_onnx.from_torch(nn.ModuleList([module, netadapt_onnx.to_torch(small)]), tmp_path / "out.onnx")
    next(module.parameters()).data[0] = float("nan")
    with pytest.raises(NetadaptError, match=r"'conv1\.weight' is not finite"):
        netadapt_onnx.from_torch(module, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_any_float_type_are_written_in_that_of_the_file(
    small: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    module = netadapt_onnx.to_torch(small).to(dtype)
    assert isinstance(module, OnnxModule)
    netadapt_onnx.from_torch(module, tmp_path / "out.onnx")
    tensors = onnx.load(tmp_path / "out.onnx").graph.initializer
    assert {t.data_type for t in tensors} == {onnx.TensorProto.FLOAT}
