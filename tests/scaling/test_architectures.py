"""What surgery can group can be scaled: plain, residual and depthwise networks, real exports among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import models
import netadapt_onnx
from netadapt_onnx.scaling import latency_target
from netadapt_onnx.scaling.result import ScaleResult

pytestmark = pytest.mark.usefixtures("fixed_training_settings")


@pytest.fixture(autouse=True)
def _hasty_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_target, "BRIEF_S", 0.05)


NETWORKS = {"vgg11": models.vgg(), "resnet18": models.resnet(), "mobilenetv2": models.inverted_residuals()}


def scaled(model: Path, out: Path, size: int, **options: object) -> ScaleResult:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (160, 3, size, size)).astype(np.float32)
    np.savez(
        out.with_suffix(".npz"),
        x_train=x[:128],
        y_train=rng.integers(0, 10, 128),
        x_val=x[128:],
        y_val=rng.integers(0, 10, 32),
    )
    chosen = {"iterations": 1, "warmup_epochs": (1,), "batches": 1, "epochs": 0} | options
    return netadapt_onnx.scale(model, out.with_suffix(".npz"), out=out, **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_has_one_law_and_targets_are_met_up_and_down(name: str, tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(NETWORKS[name], model)
    before = netadapt_onnx.inspect(model)
    groups = [g.name for g in before.groups if g.prunable]
    result = scaled(model, tmp_path / "run", 16, target=("macs=0.5x", "params=1.7x"))
    assert [g.name for g in result.groups] == groups
    for network, (resource, share) in zip(result.models, (("macs", 0.5), ("params", 1.7)), strict=True):
        assert network.model is not None
        after = netadapt_onnx.inspect(network.model).model
        assert 0.75 * share < getattr(after, resource) / getattr(before.model, resource) <= share
        onnx.checker.check_model(onnx.load(network.model), full_check=True)
        assert list(network.widths) == groups
        assert network.accuracy is not None and network.resources.latency_ms is not None


def test_a_residual_stream_has_one_exponent_and_its_layers_one_width(tmp_path: Path) -> None:
    onnx.save(NETWORKS["resnet18"], tmp_path / "net.onnx")
    stream = next(g for g in netadapt_onnx.inspect(tmp_path / "net.onnx").groups if len(g.layers) > 2)
    result = scaled(tmp_path / "net.onnx", tmp_path / "run", 16, target="params=0.4x")
    network = result.models[0]
    assert [g.name for g in result.groups].count(stream.name) == 1
    dims = {t.name: t.dims for t in onnx.load(network.model).graph.initializer}
    assert {dims[f"{layer}.weight"][0] for layer in stream.layers} == {network.widths[stream.name]}


def test_a_real_export_is_scaled(real_models: Path, tmp_path: Path) -> None:
    """ResNet-20, whose padded shortcuts carry early channels on: groups may share an axis."""
    result = scaled(
        real_models / "resnet20_cifar10.onnx", tmp_path / "run", 32, target="params=0.5x", method="magnitude"
    )
    (network,) = result.models
    assert 0.4 * 269_722 < network.resources.params <= 0.5 * 269_722
