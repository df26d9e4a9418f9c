"""`--deploy int8`: what is measured is the quantised model, what is cut and trained is the float one."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from models import plain, residual
from netadapt_onnx import cli, profile
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers import agent
from netadapt_onnx.profilers.device import Order, outputs_on_device
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import CPU, Execution, differences, execution_record, fingerprint
from netadapt_onnx.profilers.int8_kernels import choose_quantisation, probe_int8
from netadapt_onnx.profilers.quantize import EVERYWHERE, FLOAT, Deployment, saturates
from netadapt_onnx.profilers.random_widths import with_node_names
from netadapt_onnx.profilers.records import AgentRecord, Job, OutputsFile
from netadapt_onnx.profilers.units import Layers
from netadapt_onnx.search.device_accuracy import device_accuracies
from netadapt_onnx.search.evaluator import DataEvaluator
from netadapt_onnx.search.result import OnDevice
from netadapt_onnx.search.run_directory.run import Run
from sample_data import brightest_channel

Inputs = tuple[dict[str, np.ndarray], ...]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, and data whose class is the brightest of three channels."""
    (tmp_path / "model.onnx").write_bytes(plain((8, 16), size=8, classes=3).SerializeToString())
    brightest_channel(tmp_path / "data.npz", val=64, test=0)
    return tmp_path


def inputs_of(proto: onnx.ModelProto, n: int = 8) -> Inputs:
    rng = np.random.default_rng(1)
    specs = fold(proto).specs
    return tuple({k: rng.standard_normal(s).astype(d) for k, (s, d) in specs.items()} for _ in range(n))


def run(proto: onnx.ModelProto, inputs: dict[str, np.ndarray], optimise: bool = True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outcome: np.ndarray = session.run(None, inputs)[0]
    return outcome


def test_float_is_the_model_itself() -> None:
    proto = plain()
    assert FLOAT.apply(proto) is proto
    assert fingerprint(CPU)["precision"] == "float"


def test_int8_computes_nearly_the_same_with_the_same_names() -> None:
    proto = fold(residual(16, size=8)).proto
    samples = inputs_of(proto, 16)
    outcome = Deployment("int8", samples).apply(proto)
    assert [v.name for v in outcome.graph.input] == [v.name for v in proto.graph.input]
    assert [v.name for v in outcome.graph.output] == [v.name for v in proto.graph.output]
    expected = np.concatenate([run(proto, x) for x in samples])
    errors = np.concatenate([run(outcome, x) for x in samples]) - expected
    assert 0 < np.abs(errors).max() < 0.2 * expected.std()
    weights = {t.data_type for t in outcome.graph.initializer if len(t.dims) == 4}
    assert weights == {onnx.TensorProto.INT8}


ELSEWHERE = {"arch": "x86_64", "flags": ["avx2"]}


def test_int8_computes_exactly_on_this_processor() -> None:
    """As made for this device, and as made for any: kernels give what the nodes say, a few levels' rounding apart."""
    proto = fold(residual(16, size=8)).proto
    samples = inputs_of(proto, 16)
    expected = np.concatenate([run(proto, x) for x in samples])
    for environments in ([probe_int8(LocalDevice())], [ELSEWHERE], [None], []):
        outcome = Deployment("int8", samples).right_on(environments).apply(proto)
        by_kernels = np.concatenate([run(outcome, x) for x in samples])
        by_nodes = np.concatenate([run(outcome, x, optimise=False) for x in samples])
        assert np.abs(by_kernels - by_nodes).max() < 0.05 * expected.std()


def test_weights_have_seven_bits_unless_every_device_multiplies_eight_exactly() -> None:
    proto = fold(residual(16, size=8)).proto
    deploy = Deployment("int8", inputs_of(proto, 2))
    for chosen, largest in ((deploy.right_on([ELSEWHERE]), 64), (deploy.right_on([{"saturates": False}]), 127)):
        weights = [numpy_helper.to_array(t) for t in chosen.apply(proto).graph.initializer if len(t.dims) == 4]
        assert {np.abs(w.astype(int)).max() for w in weights} == {largest}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"arch": "x86_64", "flags": ["avx2", "avx512f"]}, True),
        ({"arch": "x86_64", "flags": ["avx2", "avx_vnni"]}, False),
        ({"arch": "AMD64", "flags": []}, True),  # Windows tells no flags
        ({"arch": "aarch64", "flags": ["asimddp"]}, False),
        ({"arch": "arm64", "flags": []}, False),
        ({"arch": "armv7l", "flags": ["neon"]}, False),
        ({}, True),
        ({"arch": "x86_64", "flags": ["avx512_vnni"], "saturates": True}, True),  # emulated: the try counts
        ({"arch": "AMD64", "flags": [], "saturates": False}, False),
        ({"arch": "x86_64", "flags": ["avx_vnni"], "saturates": None}, False),
    ],
)
def test_a_try_says_whether_a_device_saturates_and_else_its_processor(
    environment: dict[str, Any], expected: bool
) -> None:
    assert saturates(environment) == expected
    assert (Deployment("int8").right_on([{"saturates": False}, environment]).quantisation == EVERYWHERE) == expected


def multiplied(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """By this machine's kernels."""
    node = onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    arguments = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, x.shape)
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)
    graph = onnx.helper.make_graph([node], "g", [arguments], [result], [numpy_helper.from_array(w, "w")])
    return run(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 10)], ir_version=5), {"x": x})


def test_devices_are_tried() -> None:
    """A kernel that saturates is noticed, and one that cannot be tried is unknown."""
    x, w = np.full((1, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    exact = x.astype(int) @ w.astype(int)
    assert probe_int8(LocalDevice())["saturates"] == (not np.array_equal(multiplied(x, w), exact))
    assert probe_int8(Elsewhere("broken"))["saturates"] is True
    assert probe_int8(Elsewhere("mute"))["saturates"] is None
    execution = Execution(deploy=Deployment("int8"))
    assert choose_quantisation(execution, [LocalDevice(), Elsewhere("broken")]).deploy.quantisation == EVERYWHERE
    assert choose_quantisation(execution, [LocalDevice(), None]).deploy.quantisation == EVERYWHERE
    assert choose_quantisation(CPU, [Elsewhere("broken")]) is CPU


def test_fingerprints_say_how_int8_is_quantised_and_float_ones_say_nothing() -> None:
    assert "quantisation" not in fingerprint(CPU) | execution_record(CPU)
    execution = Execution(deploy=Deployment("int8"))
    one, other = (
        replace(execution, deploy=execution.deploy.right_on([{"saturates": answer}])) for answer in (True, False)
    )
    assert differences(fingerprint(one), fingerprint(other)) == [
        "quantisation: 7-bit weights there, 8-bit weights here"
    ]
    assert execution_record(one)["quantisation"] == "7-bit weights"


def test_the_deployed_form_is_remembered_and_is_that_of_the_model_given() -> None:
    proto, other = fold(plain()).proto, fold(plain(seed=3)).proto
    deploy = Deployment("int8", inputs_of(proto, 2))
    assert deploy.apply(proto) is deploy.apply(proto)
    assert deploy.apply(other).SerializeToString() != deploy.apply(proto).SerializeToString()


def test_whoever_measures_int8_is_given_the_quantised_file(tmp_path: Path) -> None:
    proto = fold(plain()).proto
    samples = inputs_of(proto, 2)
    job = Job((0,), None, False, 1, "each", 0.5, (1, 1), 1.0)
    order = Order({0: proto}, samples[0], Execution(deploy=Deployment("int8", samples)), (job,))
    written = order.write(tmp_path, oldest=False)
    [file] = [path for path in written.passing if path.suffix == ".onnx"]
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(file).graph.node}


def test_kernels_of_the_quantised_model_are_those_of_its_layers(tmp_path: Path) -> None:
    proto = with_node_names(fold(residual(16, size=8)).proto)
    samples = inputs_of(proto, 2)
    (tmp_path / "m.onnx").write_bytes(Deployment("int8", samples).apply(proto).SerializeToString())
    outcome = agent.Profiled(tmp_path / "m.onnx", execution_record(CPU), samples[0], tmp_path).finish()
    graph = onnx.ModelProto.FromString(zlib.decompress(base64.b64decode(outcome["optimised"]))).graph
    kernels = Layers(proto).kernels(graph, outcome["us"])
    quantised = {kernel.layers for kernel in kernels if "QLinear" in kernel.op}
    assert {("conv1", "bn1", "relu1"), ("conv3", "bn3")} <= quantised
    assert sum(kernel.us for kernel in kernels) == pytest.approx(sum(outcome["us"].values()))


def test_an_int8_table_is_not_a_float_one() -> None:
    message = differences(fingerprint(Execution(deploy=Deployment("int8"))), fingerprint(CPU))
    assert message == ["precision: int8 there, float here"]


def without_weights() -> onnx.ModelProto:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("image", "y"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Erf", ["image"], ["y"], name="erf")], "g", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def old() -> onnx.ModelProto:
    proto = plain()
    proto.opset_import[0].version = 9
    return proto


def quantised_already() -> onnx.ModelProto:
    proto = fold(plain()).proto
    return Deployment("int8", inputs_of(proto, 2)).apply(proto)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [(old(), "opset 9"), (quantised_already(), "quantised already"), (without_weights(), "nothing in it")],
    ids=["old", "quantised", "without-weights"],
)
def test_what_the_quantiser_cannot_handle_is_refused(proto: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(NetadaptError, match=f"cannot quantise the model: .*{reason}") as caught:
        Deployment("int8", inputs_of(fold(plain(size=8)).proto, 2)).apply(proto)
    assert caught.value.code == "unquantisable"


def test_what_the_quantiser_raises_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("tensor\nwithout a range")

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", broken)
    proto = fold(plain()).proto
    with pytest.raises(NetadaptError, match=r"cannot quantise the model: .*without a range") as caught:
        Deployment("int8", inputs_of(proto, 2)).apply(proto)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [("--table", "t.jsonl"), ("bundle", "-o", "b.zip")])
def test_int8_without_data_is_exit_code_2(
    words: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    first, rest = (words[:1], words[1:]) if words[0] == "bundle" else ((), words)
    assert cli.run(["profile", *first, "model.onnx", *rest, "--deploy", "int8", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "--deploy int8" in error["message"]
    assert error["hint"] == "give --data"
    assert sorted(p.name for p in folder.iterdir()) == ["data.npz", "model.onnx"]


def test_profile_measures_int8(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = folder / "t.jsonl"
    outcome = profile(folder / "model.onnx", table, deploy="int8", data=folder / "data.npz", models=8)
    assert outcome.device["precision"] == "int8"
    kernels = {json.loads(line).get("kernel", "") for line in table.read_bytes().splitlines()}
    assert any("QLinearConv" in kernel for kernel in kernels)
    adapt = ["adapt", str(folder / "model.onnx"), "--data", str(folder / "data.npz"), "--table", str(table)]
    assert cli.run([*adapt, "--budget", "latency=0.9x", "-o", str(folder / "run"), "--json"]) == 2
    assert "precision: int8 there, float here" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_adapt_writes_and_judges_both(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        *("adapt", str(folder / "model.onnx"), "--data", str(folder / "data.npz"), "--budget", "macs=0.5x"),
        *("-o", str(folder / "run"), "--step", "1", "--init-reduction-ratio", "0.25", "--final-epochs", "1"),
        *("--deploy", "int8", "--json"),
    ]
    assert cli.run(words) == 0, capsys.readouterr().err
    outcome = json.loads(capsys.readouterr().out)
    deployed = outcome["deployed"]
    assert (deployed["precision"], deployed["file"]) == ("int8", "model.int8.onnx")
    file = folder / "run" / "model.int8.onnx"
    assert deployed["size_bytes"][1] == file.stat().st_size
    quantised = onnx.load(file)
    assert "QuantizeLinear" in {node.op_type for node in quantised.graph.node}
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load(folder / "run" / "model.onnx").graph.node}
    with np.load(folder / "data.npz") as data:
        labels, images = data["y_val"], data["x_val"]
    name = quantised.graph.input[0].name
    guessed = np.concatenate([run(quantised, {name: x[None]}).argmax(1) for x in images])
    assert deployed["accuracy"]["after"] == pytest.approx((guessed == labels).mean())
    assert deployed["accuracy"]["metric"] == outcome["accuracy"]["metric"] == "top1"
    assert abs(deployed["accuracy"]["before"] - outcome["accuracy"]["before"]) < 0.15
    assert cli.run([*words, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["deployed"] == deployed


class Elsewhere(LocalDevice):
    """A device of another name whose kernels we choose: `broken` gives other numbers, `mute` only measures."""

    name = "gateway"

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.output_files = 0

    def run(self, manifest: str, results: str) -> Iterator[AgentRecord]:
        for record in super().run(manifest, results):
            if isinstance(record, OutputsFile):
                self.output_files += 1
                if self.kind == "mute":
                    continue
                if self.kind == "broken":
                    self.spoil(record.file)
            yield record

    def spoil(self, file: str) -> None:
        with np.load(self._folder / file) as arrays:
            spoilt = [-arrays[name] for name in arrays]
        np.savez(self._folder / file, *spoilt)


def int8_accuracies(
    device: LocalDevice | None, folder: Path, execution: Execution
) -> tuple[dict[str, OnDevice], tuple[str, ...]]:
    proto = fold(plain((8, 16), size=8, classes=3)).proto
    dataset = load_dataset(fold(proto), folder / "data.npz")
    evaluator = DataEvaluator(dataset, proto)
    check = SimpleNamespace(device=device)
    deployed = execution.deploy.apply(proto)
    with Run.open(folder / "journal", {}, growing={}, resume=True) as run_:
        context: Any = SimpleNamespace(
            run=run_,
            budget_checks={"latency": check, "energy": check},
            evaluator=evaluator,
            execution=execution,
        )
        return device_accuracies(context, "model", deployed)


def test_int8_accuracy_is_that_of_the_devices_own_kernels(folder: Path) -> None:
    execution = Execution(deploy=Deployment("int8", inputs_of(fold(plain((8, 16), size=8)).proto)))
    device = Elsewhere("sound")
    outcome, notes = int8_accuracies(device, folder, execution)
    assert not notes
    assert outcome["latency"].accuracy == outcome["latency"].here
    assert outcome["latency"].samples == 64
    assert int8_accuracies(device, folder, execution) == (outcome, notes)
    assert device.output_files == 1  # journalled


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (Elsewhere("broken"), "gateway computes other numbers than this machine: top1 differs by"),
        (Elsewhere("mute"), "by this machine's kernels: gateway could not be asked"),
        (None, "by this machine's kernels: the device could not be asked, only a bundle gets there"),
    ],
    ids=["broken", "mute", "bundle"],
)
def test_where_int8_accuracy_is_another_or_unknown_it_is_said(
    device: LocalDevice | None, expected: str, folder: Path
) -> None:
    execution = Execution(deploy=Deployment("int8", inputs_of(fold(plain((8, 16), size=8)).proto)))
    outcome, [note] = int8_accuracies(device, folder, execution)
    assert expected in note
    assert bool(outcome) == (device is not None and device.kind == "broken")  # type: ignore[attr-defined]


def test_this_machines_cpu_is_not_asked_twice(folder: Path) -> None:
    execution = Execution(deploy=Deployment("int8", inputs_of(fold(plain((8, 16), size=8)).proto)))
    assert int8_accuracies(LocalDevice(), folder, execution) == ({}, ())


def test_answers_of_a_device_are_the_models_outputs() -> None:
    proto = fold(plain()).proto
    batches = inputs_of(proto, 3)
    answers = outputs_on_device(LocalDevice(), CPU, proto, batches)
    assert answers is not None
    for inputs, outcome in zip(batches, answers, strict=True):
        assert np.array_equal(outcome["logits"], run(proto, inputs))
    with pytest.raises(NetadaptError, match="local: onnxruntime cannot run the model"):
        outputs_on_device(LocalDevice(), CPU, proto, inputs_of(fold(plain(size=4)).proto, 1))
