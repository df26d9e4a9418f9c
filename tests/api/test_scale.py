"""NeuralScale: laws of widths, networks for targets, the descent that finds them, and the baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
import netadapt_onnx
from netadapt_onnx.cli import run as command
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling import descent, latency_target
from netadapt_onnx.scaling.power_law import LEAST_ROWS, Law
from netadapt_onnx.scaling.width_record import read_record
from netadapt_onnx.training.initialise import initialised

pytestmark = pytest.mark.usefixtures("fixed_training_settings")

WIDTHS = (8, 12, 16)
EXPONENTS = (0.3, 0.5, 0.65)


@pytest.fixture(autouse=True)
def _hasty_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_target, "BRIEF_S", 0.05)


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save(proto, path)
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return saved(models.plain(WIDTHS, size=8), tmp_path / "net.onnx")


def line(params: float, names: tuple[str, ...] = ("conv1", "conv2", "conv3"), rows: int = 40) -> str:
    """A record that follows known exponents, as CSV."""
    tau = np.geomspace(params, params / 20, rows)
    columns = [w * (tau / params) ** b for w, b in zip(WIDTHS, EXPONENTS, strict=True)]
    text = [",".join((*names, "params"))]
    text += [",".join(f"{v:.6f}" for v in row) for row in zip(*columns, tau, strict=True)]
    return "\n".join(text) + "\n"


def params(file: Path | None) -> int:
    assert file is not None
    return netadapt_onnx.inspect(file).model.params


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three bright corners: easy enough to be learnt in an epoch or two."""
    monkeypatch.setattr(descent, "DescentSchedule", partial(descent.DescentSchedule, batch_size=64))
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 320)
    x = rng.normal(0, 0.3, (320, 3, 8, 8)).astype(np.float32)
    for i, label in enumerate(y):
        x[i, label, 2 * label : 2 * label + 3, 1:5] += 1.5
    file = tmp_path / "data.npz"
    np.savez(file, x_train=x[:256], y_train=y[:256], x_val=x[256:], y_val=y[256:])
    return file


def test_the_papers_widths_come_out_of_its_record(real_data, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """VGG11 on CIFAR-10, fifteenth iteration: the uniform ratios 0.25 and 1 in parameters."""
    b, x, channels = models.Builder(), "image", 3
    for i, width in enumerate((64, 128, 256, 256, 512, 512, 512, 512)):
        x, channels = b.relu(b.batchnorm(b.conv(x, channels, width, name=f"conv{i}"), width)), width
    b.head(x, channels)
    proto = b.model({"image": ("N", 3, 4, 4)}, {"logits": ("N", 10)})
    record = real_data / "neuralscale" / "vgg11_cifar10_iteration15.csv"
    vgg = saved(proto, tmp_path / "vgg.onnx")
    targets = ["params=579786", "params=9231114"]
    small, full = netadapt_onnx.scale(vgg, fit=record, target=targets, out=tmp_path / "run").models
    assert list(small.widths.values()) == [88, 132, 136, 120, 82, 56, 31, 53]
    assert list(full.widths.values()) == [210, 392, 523, 615, 415, 278, 111, 120]
    assert small.resources.params == params(small.model) <= 579786


@pytest.mark.parametrize("share", [0.25, 0.4, 0.5, 1.0, 1.5, 2.0])
def test_parameters_never_exceed_a_target_and_miss_it_by_less_than_one_width(
    network: Path, tmp_path: Path, share: float
) -> None:
    original_params = params(network)
    record = tmp_path / "record.csv"
    record.write_text(line(original_params))
    result = netadapt_onnx.scale(network, fit=record, target=f"params={share}x", out=tmp_path / "run")
    model = result.models[0]
    assert params(model.model) == model.resources.params <= share * original_params
    law = Law(result.groups)
    size = next(
        t for t in np.geomspace(original_params / 50, original_params * 50, 40_000) if truncated(law, t) == model.widths
    )
    nearer = next(t for t in np.geomspace(size, size * 3, 40_000) if truncated(law, t) != model.widths)
    wider = netadapt_onnx.scale(
        network, fit=record, target=f"params={counted(truncated(law, nearer))}", out=tmp_path / "wider"
    )
    assert wider.models[0].resources.params > share * original_params


def truncated(law: Law, tau: float) -> dict[str, int]:
    return {name: max(1, int(width)) for name, width in law.widths(tau).items()}


def counted(widths: Mapping[str, int]) -> int:
    """Parameters of `models.plain`: 3x3 convs without bias, BatchNorm, a classifier with bias."""
    a, b, c = widths.values()
    return 9 * (3 * a + a * b + b * c) + 2 * (a + b + c) + 10 * c + 10


def test_a_law_is_a_file_that_serves_again(network: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.csv"
    record.write_text(line(params(network)))
    first = netadapt_onnx.scale(network, fit=record, target="macs=0.5x", out=tmp_path / "a")
    again = netadapt_onnx.scale(network, law=tmp_path / "a" / "widths.toml", target="macs=0.5x", out=tmp_path / "b")
    assert again.groups == first.groups
    assert again.models[0].widths == first.models[0].widths
    assert again.models[0].resources.macs <= 0.5 * netadapt_onnx.inspect(network).model.macs
    other = saved(models.residual(8, size=8), tmp_path / "other.onnx")
    with pytest.raises(NetadaptError, match="law of another model"):
        netadapt_onnx.scale(other, law=tmp_path / "a" / "widths.toml", target="params=0.5x", out=tmp_path / "c")


def test_every_method_meets_its_targets_up_and_down(network: Path, data: Path, tmp_path: Path) -> None:
    methods = ("neuralscale", "morphnet", "magnitude", "uniform")
    result = netadapt_onnx.scale(
        network,
        data,
        target=["params=0.4x", "params=1.5x"],
        out=tmp_path / "run",
        method=methods,
        iterations=1,
        batches=2,
        warmup_epochs=(2,),
        epochs=1,
        seeds=2,
    )
    original_params = params(network)
    assert [model.method for model in result.models] == [m for m in methods for _ in range(2)]
    for model, share in zip(result.models, (0.4, 1.5) * len(methods), strict=True):
        assert 0.8 * share * original_params < params(model.model) <= share * original_params
        assert model.accuracy is not None and len(model.accuracy.values) == 2
        assert model.accuracy.mean == pytest.approx(np.mean(model.accuracy.values))
    assert len({model.model for model in result.models}) == len(result.models)
    assert [g.name for g in result.groups] == ["conv1", "conv2", "conv3"]
    assert max(model.accuracy.mean for model in result.models if model.accuracy is not None) > 0.5
    original = result.original
    assert original is not None and original.accuracy is not None
    assert (original.resources.params, original.resources.latency_ms is not None) == (original_params, True)
    assert original.accuracy.mean == netadapt_onnx.evaluate(network, data, timed=False).models[0].accuracy
    for model in result.models:
        assert model.latency_ratio is not None and model.latency_ratio_ci95 is not None
        assert model.latency_ratio_ci95[0] <= model.latency_ratio <= model.latency_ratio_ci95[1]


def test_a_descent_is_recorded_and_resumed_to_the_same_widths(network: Path, data: Path, tmp_path: Path) -> None:
    def scaled(out: str, **more: object) -> netadapt_onnx.scaling.result.ScaleResult:  # type: ignore[name-defined]
        return netadapt_onnx.scale(
            network,
            data,
            target="params=0.5x",
            out=tmp_path / out,
            iterations=2,
            warmup_epochs=(1,),
            batches=2,
            epochs=1,
            **more,
        )

    original_params = scaled("original_params")
    journal = (tmp_path / "original_params" / "journal.jsonl").read_text().splitlines()
    keys = [json.loads(entry)["key"] for entry in journal]
    assert [key for key in keys if not key.startswith("sha256/")] == [
        "settings/neuralscale/1/0",
        "descent/neuralscale/1/0",
        "settings/neuralscale/1/1",
        "descent/neuralscale/1/1",
        "settings/params=0.5x",
        "trained/params=0.5x/0",
        "latency/params=0.5x",
        "latency/original",
        "accuracy/original",
    ]
    charts = {file.name for file in (tmp_path / "original_params" / "plots").iterdir()}
    names = ("accuracy-parameters", "accuracy-latency", "widths", "filters", "laws")
    assert charts == {f"{n}.{k}" for n in names for k in ("json", "svg", "png")}
    for file in (tmp_path / "original_params" / "plots").glob("*.svg"):
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
    scaled("cut")
    torn = tmp_path / "cut" / "journal.jsonl"
    torn.write_text("\n".join(journal[:3]) + "\n" + journal[3][:40])  # killed while it wrote the second descent
    assert scaled("cut", resume=True).models[0].widths == original_params.models[0].widths


def test_without_labels_the_original_teaches(network: Path, data: Path, tmp_path: Path) -> None:
    with np.load(data) as stored:
        np.savez(tmp_path / "plain.npz", x_train=stored["x_train"], x_val=stored["x_val"])
    result = netadapt_onnx.scale(
        network,
        tmp_path / "plain.npz",
        target="params=0.5x",
        out=tmp_path / "run",
        iterations=1,
        batches=2,
        warmup_epochs=(1,),
        epochs=1,
    )
    accuracy = result.models[0].accuracy
    assert accuracy is not None and accuracy.metric == "agreement"
    assert any("no labels" in note for note in result.notes)


def test_a_residual_stream_has_one_exponent(data: Path, tmp_path: Path) -> None:
    file = saved(models.residual(8, size=8), tmp_path / "residual.onnx")
    result = netadapt_onnx.scale(
        file,
        data,
        target="params=0.5x",
        out=tmp_path / "run",
        iterations=1,
        warmup_epochs=(1,),
        batches=2,
        epochs=0,
    )
    assert [g.name for g in result.groups] == [g.name for g in netadapt_onnx.inspect(file).groups if g.prunable]


def test_too_few_records_scale_uniformly_and_say_so(network: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.csv"
    record.write_text(line(params(network), rows=LEAST_ROWS - 1))
    result = netadapt_onnx.scale(network, fit=record, target="params=0.3x", out=tmp_path / "run")
    assert any("uniformly" in note for note in result.notes)
    shares = [result.models[0].widths[f"conv{i + 1}"] / w for i, w in enumerate(WIDTHS)]
    assert max(shares) - min(shares) < 1 / min(WIDTHS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv1,conv2\n1,2\n", "names the groups and 'params'"),
        ("conv1,params\n1,2\n1\n", "line 3: expected 2 numbers"),
        ("conv1,params\n0,2\n", "line 2: widths and params are above zero"),
        ("a,b,params\n1,2,3\n", "the record has 2 groups, the model 3"),
    ],
)
def test_a_wrong_record_is_named(network: Path, tmp_path: Path, text: str, message: str) -> None:
    record = tmp_path / "record.csv"
    record.write_text(text)
    with pytest.raises(NetadaptError, match=message):
        netadapt_onnx.scale(network, fit=record, target="params=0.5x", out=tmp_path / "run")


def test_a_target_out_of_reach_is_refused(network: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.csv"
    record.write_text(line(params(network)))
    for target, message in (("params=3", "the narrowest network still costs"), ("params=1e15", "too much for this")):
        with pytest.raises(NetadaptError, match=message):
            netadapt_onnx.scale(network, fit=record, target=target, out=tmp_path / target)


def test_the_command_prints_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "record.csv"
    record.write_text(line(1000.0))
    assert command(["scale", "--fit", str(record), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [set(g) for g in document["groups"]] == [{"name", "alpha", "beta", "rows", "r2"}] * 3
    assert [g["beta"] for g in document["groups"]] == pytest.approx(EXPONENTS, abs=1e-4)
    assert command(["scale", "--json"]) == 2
    assert read_record(record).names == ("conv1", "conv2", "conv3")


def test_weights_are_drawn_anew_by_kind_of_layer() -> None:
    proto = models.plain((16, 24, 32))
    drawn = {t.name: numpy_helper.to_array(t) for t in initialised(proto, 1).graph.initializer}
    before = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert drawn["conv2.weight"].std() == pytest.approx(np.sqrt(2 / (16 * 9)), rel=0.05)
    assert drawn["fc1.weight"].std() == pytest.approx(np.sqrt(2 / 32), rel=0.15)
    assert not drawn["fc1.bias"].any()
    for name, value in (("scale", 1), ("bias", 0), ("mean", 0), ("var", 1)):
        assert (drawn[f"bn1.{name}"] == value).all()
    assert {k: v.shape for k, v in drawn.items()} == {k: v.shape for k, v in before.items()}
    again = {t.name: numpy_helper.to_array(t) for t in initialised(proto, 1).graph.initializer}
    assert all(np.array_equal(drawn[name], again[name]) for name in drawn)
