"""Every example runs as its first lines say, and the networks in `models.py` can be exported, read and adapted."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import netadapt_onnx
from documentation import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
# Parameters of the published networks: He et al.'s ResNet-18 and Zagoruyko's WRN-40-2 with ten classes, and so on.
NETWORKS = {
    "hello_world": 57_130,
    "mobilenet_v1": 3_217_226,
    "alexnet": 7_706_442,
    "wide_resnet_40_2": 2_243_546,
    "vgg11": 9_228_362,
    "resnet18": 11_173_962,
    "mobilenet_v2": 2_236_682,
}
FAST = ("hello_world",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in NETWORKS])
def test_networks_are_exported_inspected_and_adapted(name: str, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    exported = netadapt_onnx.export(f"{EXAMPLES / 'models.py'}:{name}", model)
    assert exported.params == NETWORKS[name]
    assert exported.dynamic_batch
    inspection = netadapt_onnx.inspect(model)
    assert [group.name for group in inspection.groups if not group.prunable] == [inspection.layers[-1].name]
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz", **{f"x_{s}": rng.standard_normal((8, 3, 32, 32), np.float32) for s in ("train", "val")}
    )
    result = netadapt_onnx.adapt(
        model, tmp_path / "data.npz", "macs=0.5x", tmp_path / "run", max_iterations=1, final_epochs=0
    )
    assert result.iterations == 1
    assert result.after.macs < inspection.model.macs
    assert netadapt_onnx.inspect(result.model).model.macs == result.after.macs


def test_all_networks_are_tested() -> None:
    text = (EXAMPLES / "models.py").read_text()
    assert {line[4 : line.index("(")] for line in text.splitlines() if line.endswith("-> NetworkAndInput:")} == set(
        NETWORKS
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the examples are run: they write below."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return tmp_path


def run_script(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    argv, sys.argv = sys.argv, [str(EXAMPLES / name)]
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        sys.argv = argv
    return capsys.readouterr().out


def test_digits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run_script("digits.py", capsys)
    assert "at least" in out
    assert "the limit is" in out


def test_a_loop_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run_script("own_loop.py", capsys)
    before, cut, trained, narrow = (float(share) for share in re.findall(r"([\d.]+)%", out))
    assert cut < trained - 10 and trained > before - 10
    assert narrow == cut, "the class computes what the file does"
    assert (here / "own_loop" / "tuned.onnx").exists()


@pytest.mark.slow
def test_a_task_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = re.findall(r"r2 on test: (.*) -> (.*)", run_script("custom_task.py", capsys))[0]
    assert float(before) > 0.8 and float(after) > float(before) - 0.15
    assert netadapt_onnx.evaluate("custom/run/model.onnx", f"{EXAMPLES / 'custom_task.py'}:task", timed=False)


@pytest.mark.slow
def test_digits_again_and_from_there_unlabelled(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run_script("digits.py", capsys)
    assert run_script("digits.py", capsys) == out, "a second time it is as it was"
    out = run_script("unlabelled.py", capsys)
    assert "agreement with the original on val" in out
    assert "reaches graph output" in out


@pytest.mark.slow
def test_the_notebook_runs(here: Path) -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    space: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
    assert space["verdict"].ok  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
def test_a_bundle_goes_to_the_device_and_comes_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_script("digits.py", capsys)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["sh", str(EXAMPLES / "edge_bundle" / "run.sh"), "digits/model.onnx", "digits/data.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    assert "predicted to be met" in done.stdout
    assert (here / "edge" / "run" / "model.onnx").exists()


def test_the_repository_in_miniature_keeps_its_limits_until_its_model_grows(here: Path) -> None:
    shutil.copytree(EXAMPLES / "ci", here, dirs_exist_ok=True)
    assert netadapt_onnx.gate().ok
    model = here / "models" / "digits.onnx"
    wider = netadapt_onnx.scale(model, target="params=1.1x", method="uniform", out=here / "wider").models[0].model
    assert wider is not None
    shutil.copy(wider, model)
    exceeded = {check.limit for check in netadapt_onnx.gate().models[0].checks if not check.ok}
    assert exceeded == {"size increase", "macs increase"}


def test_every_example_is_spoken_of() -> None:
    page = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name not in ("README.md", "__pycache__"):
            assert f"({path.name}" in page, path.name
