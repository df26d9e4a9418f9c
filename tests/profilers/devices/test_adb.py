"""Measuring over adb: Debian's own client against a small server; with Python on the device, and without."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adb_server import SERIAL, AdbServer
from models import residual
from netadapt_onnx import cli
from netadapt_onnx.api.profile import profile
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.devices import adb as adb_module
from netadapt_onnx.profilers.devices.adb import AdbShell
from netadapt_onnx.profilers.devices.perf_test import parse_times
from netadapt_onnx.profilers.devices.shell import ConnectionLostError
from netadapt_onnx.profilers.table import build as building
from table_runs import cells

if shutil.which("adb") is None:
    pytest.skip("no adb here (Debian: apt install adb)", allow_module_level=True)

URL = f"adb://{SERIAL}"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbServer]:
    server_process = AdbServer(tmp_path_factory.mktemp("adb"))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server_process.port))
    monkeypatch.setattr(building, "REFERENCE_CAP_S", 0.3)
    yield server_process
    server_process.stop()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "$(touch pwned) m'.onnx"
    path.write_bytes(residual(32, size=8).SerializeToString())
    return path


@pytest.fixture
def perf_test(tmp_path: Path) -> Path:
    """A binary whose name would be a command."""
    path = tmp_path / "perf $(touch pwned)"
    path.write_text(
        f"#!{sys.executable}\n"
        + (Path(__file__).resolve().parents[2] / "support" / "stand_in_perf_test_binary.py").read_text()
    )
    path.chmod(0o755)
    return path


def test_shell_gives_exit_codes_and_files_survive_the_way(server: AdbServer, tmp_path: Path) -> None:
    remote = AdbShell(URL, "test")
    assert remote.call("exit 7").returncode == 7
    assert remote.call(f"mkdir -p {remote.folder} && echo hello").stdout == "hello\n"
    data = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "data.bin").write_bytes(data)
    remote.push([tmp_path / "data.bin"])
    assert remote.pull("data.bin") == data
    with pytest.raises(NetadaptError, match=r"no none came back"):
        remote.pull("none")
    assert list(remote.stream("echo one; echo; echo two")) == [b"one\n", b"two\n"]
    server.refuse(1)
    with pytest.raises(ConnectionLostError, match="offline"):
        remote.call("true")


def test_a_table_over_adb_is_the_one_made_here(server: AdbServer, model: Path, tmp_path: Path) -> None:
    far = profile(model, tmp_path / "far.jsonl", device=URL, python=sys.executable, models=5)
    near = profile(model, tmp_path / "near.jsonl", models=5)
    assert far.device == near.device
    assert cells(tmp_path / "far.jsonl") == cells(tmp_path / "near.jsonl")
    assert not list((server.device / "netadapt-onnx").iterdir())
    assert all("touch" not in command for command in server.commands)


def test_a_device_without_python_is_measured_by_its_perf_test(
    server: AdbServer, model: Path, perf_test: Path, tmp_path: Path
) -> None:
    far = profile(model, tmp_path / "far.jsonl", device=URL, perf_test=perf_test, models=3)
    profile(model, tmp_path / "near.jsonl", models=3)
    assert cells(tmp_path / "far.jsonl") == cells(tmp_path / "near.jsonl")
    assert str(far.device["onnxruntime"]).startswith("perf_test ")
    assert far.device["os"] == "Android"
    assert far.latency_ms.median > 0
    assert not list((server.device / "netadapt-onnx").iterdir())
    assert not list(server.device.rglob("pwned"))
    assert not Path("pwned").exists()


def test_a_device_that_is_offline_for_a_while_is_waited_for(server: AdbServer, model: Path, tmp_path: Path) -> None:
    message: list[str] = []

    def progress(done: int, _: int, __: str) -> None:
        if done == 2:
            server.refuse(2)

    result = profile(
        model, tmp_path / "t.jsonl", device=URL, python=sys.executable, models=2, progress=progress, log=message.append
    )
    assert result.cells
    assert message
    assert all("offline" in line for line in message)


def test_what_cannot_be_used_is_one_line(
    server: AdbServer, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for device, options, message in (
        ("adb://another", [], "device 'another' not found"),
        ("adb://-x", [], "is not adb://SERIAL"),
        (URL, ["--python", "no python"], "the agent cannot run"),
        (URL, ["--perf-test", str(tmp_path / "none")], "no such file"),
    ):
        command = ["profile", str(model), "--table", str(tmp_path / "t.jsonl"), "--device", device, *options]
        assert cli.run(command) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert message in lines[0]
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(adb_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NetadaptError, match=r"netadapt-onnx\[adb\]"):
        AdbShell(URL, "test")


def test_what_perf_test_writes_is_read_in_all_its_forms() -> None:
    written = "m,0.0012,1000,99,0\nm,1.3e-03,1000,99,1\n\nMin Latency is 0.0012sec\nP50 Latency is 0.0013sec\n"
    assert parse_times(written) == pytest.approx([1.2, 1.3])
    assert parse_times("a,model,0.002,1000,99,0\n") == pytest.approx([2.0])
    with pytest.raises(ChildProcessError, match="no times"):
        parse_times("failed to open result file\n")
