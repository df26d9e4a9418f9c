"""Exported modules keep BatchNorm, the names of parameters and a dynamic batch, and compute what torch computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from netadapt_onnx.api.export import export
from netadapt_onnx.api.inspect import inspect
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load
from netadapt_onnx.graph.runtime import run, session

FACTORY = '''
"""A module for export tests."""
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 5)

    def forward(self, image):
        x = torch.relu(self.bn1(self.conv1(image)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return {"logits": self.fc(x.mean((2, 3)).view(x.size(0), -1)), "features": x}


def make():
    return Net(), torch.zeros(1, 3, 16, 16)


def alone():
    return Net()


def several():
    return Net(), {"image": torch.zeros(4, 3, 16, 16)}


def broken():
    raise RuntimeError("no weights here")


def text():
    return "a module"


class Fixed(Net):
    def forward(self, image):
        return super().forward(image)["logits"].reshape(1, 5)


def fixed():
    return Fixed(), torch.zeros(1, 3, 16, 16)
'''


@pytest.fixture
def factory(tmp_path: Path) -> str:
    path = tmp_path / "net.py"
    path.write_text(FACTORY)
    return str(path)


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_batchnorm_names_and_batch_are_kept(exporter: str, factory: str, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    result = export(f"{factory}:make", out, exporter=exporter)  # type: ignore[arg-type]
    assert result.model == out
    assert result.max_rel_diff < 1e-5
    assert result.dynamic_batch
    proto = onnx.load(out)
    onnx.checker.check_model(proto, full_check=True)
    ops = [node.op_type for node in proto.graph.node]
    assert ops.count("BatchNormalization") == 2
    assert not {"Expand", "CastLike", "Identity", "Constant"} & set(ops)
    assert {"conv1", "conv2", "fc"} <= {node.name for node in proto.graph.node}
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert weights["conv1.weight"].shape == (8, 3, 3, 3)
    assert [v.name for v in proto.graph.input] == ["image"]
    assert [v.name for v in proto.graph.output] == ["logits", "features"]
    assert str(tmp_path) not in str(proto)
    module_params = 3 * 8 * 9 + 16 + 8 * 16 * 9 + 16 + 32 + 16 * 5 + 5
    assert result.params == module_params
    groups = inspect(out).groups
    assert [g.name for g in groups if g.prunable] == ["conv1"]  # conv2 reaches the output 'features'
    assert run(session(load(out).proto), {"image": np.zeros((3, 3, 16, 16), np.float32)})["logits"].shape == (3, 5)


def test_fresh_batchnorm_layers_have_parameters_of_their_own(factory: str, tmp_path: Path) -> None:
    export(f"{factory}:make", tmp_path / "net.onnx", exporter="legacy")
    proto = onnx.load(tmp_path / "net.onnx")
    scales = [node.input[1] for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert len(set(scales)) == 2


def test_a_module_alone_needs_shapes(factory: str, tmp_path: Path) -> None:
    with pytest.raises(NetadaptError, match=r"no example inputs.*--shape"):
        export(f"{factory}:alone", tmp_path / "net.onnx")
    result = export(f"{factory}:alone", tmp_path / "net.onnx", exporter="legacy", shapes={"image": (1, 3, 16, 16)})
    assert result.max_rel_diff < 1e-5


def test_inputs_may_be_named_and_have_a_batch(factory: str, tmp_path: Path) -> None:
    assert export(f"{factory}:several", tmp_path / "net.onnx", exporter="legacy").dynamic_batch


def test_a_batch_that_cannot_be_dynamic_is_fixed_and_said(factory: str, tmp_path: Path) -> None:
    result = export(f"{factory}:fixed", tmp_path / "net.onnx")
    assert not result.dynamic_batch
    assert result.max_rel_diff < 1e-5


def test_the_opset_can_be_chosen(factory: str, tmp_path: Path) -> None:
    export(f"{factory}:make", tmp_path / "net.onnx", exporter="legacy", opset=13)
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == 13


@pytest.mark.parametrize("opset", [11, 999])
def test_an_opset_that_the_exporter_does_not_write_is_refused(opset: int, factory: str, tmp_path: Path) -> None:
    with pytest.raises(NetadaptError, match=f"{opset}"):
        export(f"{factory}:make", tmp_path / "net.onnx", opset=opset)
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("make", "is not FILE.py:FUNCTION"),
        ("{file}:nothing", "has no 'nothing'"),
        ("{file}:maek", "has no 'maek'; did you mean make"),
        ("{file}:broken", "RuntimeError: no weights here"),
        ("{file}:text", "returned str"),
        ("{folder}/absent.py:make", "no such file"),
    ],
)
def test_factories_that_fail_say_how(what: str, message: str, factory: str, tmp_path: Path) -> None:
    with pytest.raises(NetadaptError, match=message):
        export(what.format(file=factory, folder=tmp_path), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_an_existing_output_is_refused_before_anything_runs(factory: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("precious")
    with pytest.raises(NetadaptError, match="exists"):
        export(f"{factory}:broken", tmp_path / "net.onnx")


def test_torch_is_left_as_it_was(factory: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    export(f"{factory}:make", tmp_path / "net.onnx", exporter="legacy")
    assert torch.get_num_threads() == threads
