"""OpenVINO for real, a second execution provider: `make test-openvino` builds an environment of its own for it.

It takes the place of the package onnxruntime, so it is skipped everywhere else.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from execution_cases import order_of, two_nodes
from models import plain, residual
from netadapt_onnx.cli import run
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers.device import Order, measure_on
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.execution import CPU, Execution, differences, fingerprint
from netadapt_onnx.profilers.providers import OPENVINO
from netadapt_onnx.profilers.random_widths import RandomWidthModel, random_widths
from netadapt_onnx.profilers.records import Job
from netadapt_onnx.profilers.table.build import TablePlan, build
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.surgery.trace import trace

pytestmark = pytest.mark.skipif(
    OPENVINO.name not in onnxruntime.get_available_providers(), reason="no onnxruntime-openvino: `make test-openvino`"
)
VINO = Execution("openvino")


def test_every_node_is_openvinos_and_that_is_recorded() -> None:
    proto = fold(residual(16, size=8)).proto
    inputs = {"image": np.zeros((1, 3, 8, 8), np.float32)}
    job = Job((0,), None, False, 2, "each", 0.5, (2, 2), 1.0)
    measurement = measure_on(LocalDevice(), Order({0: proto}, inputs, VINO, (job,)))[0]
    assert set(measurement.placement) == {OPENVINO.name}
    assert measurement.placement[OPENVINO.name] >= len([node for node in proto.graph.node if node.op_type == "Conv"])


def test_a_layer_that_would_fall_back_is_named() -> None:
    with pytest.raises(NetadaptError, match=r"openvino leaves 1 nodes to the CPU: det \(Det\)"):
        measure_on(LocalDevice(), order_of(two_nodes(), VINO))


def test_options_reach_openvino() -> None:
    """It takes no node for a device that does not exist."""
    with pytest.raises(NetadaptError, match=r"openvino leaves 9 nodes to the CPU: conv1 \(Conv\)"):
        measure_on(LocalDevice(), order_of(plain(size=8), Execution("openvino", options={"device_type": "GNU"})))


def test_the_fingerprint_differs_from_the_cpus() -> None:
    assert "ep: openvino there, cpu here" in differences(fingerprint(VINO), fingerprint(CPU))


def test_a_table_of_the_cpu_is_refused_and_one_of_openvino_predicts(tmp_path: Path) -> None:
    model_trace = trace(fold(residual(64, size=16)))
    reference, draw = RandomWidthModel(model_trace.folded.proto, model_trace.folded.shapes), random_widths(model_trace)
    build(tmp_path / "cpu.jsonl", reference, draw, TablePlan(models=8))
    with pytest.raises(NetadaptError, match="ep: cpu there, openvino here"):
        Table.load(tmp_path / "cpu.jsonl", reference.proto, device=fingerprint(VINO))
    with pytest.raises(NetadaptError, match="ep: cpu there, openvino here"):
        build(tmp_path / "cpu.jsonl", reference, draw, TablePlan(models=8), execution=VINO)
    table = build(tmp_path / "vino.jsonl", reference, draw, TablePlan(models=48, time_cap_s=60.0), execution=VINO)
    assert {cell.us for cell in table.cells} == {None}
    assert Table.load(tmp_path / "vino.jsonl", reference.proto, device=fingerprint(VINO)).cells == table.cells
    versions = sorted((draw(np.random.default_rng([5, i])) for i in range(30)), key=lambda v: table.predict(v.shapes))
    macs = [sum(np.prod(shape) for shape in v.shapes.values()) for v in versions]
    assert macs[0] < macs[-1]


def test_profile_validates_and_says_where_it_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(plain((16, 32), size=16).SerializeToString())
    words = ["profile", str(tmp_path / "m.onnx"), "--table", str(tmp_path / "t.jsonl"), "--ep", "openvino"]
    assert run([*words, "--validate", "4", "--json"]) == 0, capsys.readouterr().err
    output = json.loads(capsys.readouterr().out)
    assert output["device"]["ep"] == "openvino"
    assert output["device"]["options"] == {"device_type": "CPU", "num_of_threads": "1"}
    assert output["validation"]["n"] == 4
    assert 0 <= output["validation"]["mape"] <= output["validation"]["max"]
