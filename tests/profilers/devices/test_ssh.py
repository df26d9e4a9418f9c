"""Measuring over ssh: the real client against a real server on the loopback."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from models import residual
from netadapt_onnx import cli
from netadapt_onnx.api.profile import profile
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.profilers import device
from netadapt_onnx.profilers.device import outputs_on_device
from netadapt_onnx.profilers.devices import shell, shell_device
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.devices.remote import RemoteDevice
from netadapt_onnx.profilers.devices.shell import ConnectionLostError
from netadapt_onnx.profilers.devices.ssh import SshShell
from netadapt_onnx.profilers.execution import CPU
from netadapt_onnx.profilers.int8_kernels import probe_int8
from netadapt_onnx.profilers.random_widths import random_widths
from netadapt_onnx.profilers.table import build as building
from netadapt_onnx.profilers.table.file import EndToEndTime, read
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.surgery.trace import trace

pytest.importorskip("asyncssh", reason="the SSH server of these tests (pip install asyncssh)")
if shutil.which("ssh") is None or shutil.which("scp") is None:
    pytest.skip("no OpenSSH client here", allow_module_level=True)

from ssh_server import SshServer
from table_runs import cells


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    server_process = SshServer(tmp_path_factory.mktemp("server"))
    monkeypatch.setenv("NETADAPT_SSH_OPTIONS", server_process.options)
    monkeypatch.setattr(building, "REFERENCE_CAP_S", 0.5)
    yield server_process
    server_process.stop()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file whose name would be a command, were it ever given to a shell."""
    path = tmp_path / "$(touch pwned); 'm'.onnx"
    path.write_bytes(residual(32, size=8).SerializeToString())
    return path


def test_a_table_over_ssh_is_the_one_made_here(server: SshServer, model: Path, tmp_path: Path) -> None:
    far = profile(model, tmp_path / "far.jsonl", device=server.url, python=sys.executable, models=9)
    near = profile(model, tmp_path / "near.jsonl", models=9)
    assert far.device == near.device
    assert cells(tmp_path / "far.jsonl") == cells(tmp_path / "near.jsonl")
    proto = onnx.load(model)
    draw = random_widths(trace(fold(proto)))
    tables = [Table.load(tmp_path / f"{name}.jsonl", proto) for name in ("far", "near")]
    unseen = [draw(np.random.default_rng([7, i])).shapes for i in range(10)]
    far_ratios, near_ratios = ([table.predict_ratio(shapes) for shapes in unseen] for table in tables)
    assert np.isfinite([*far_ratios, *near_ratios]).all()  # other processes come and go: nothing is said of times
    assert not list(server.home.rglob("*.onnx"))
    assert not list((server.home / ".cache/netadapt-onnx").iterdir())
    assert not list(server.home.rglob("pwned"))
    assert all("touch" not in command and "'m'" not in command for command in server.commands)


def test_a_connection_that_is_cut_is_taken_up_again(
    server: SshServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message: list[str] = []
    server.cut(2)
    result = profile(
        model, tmp_path / "t.jsonl", device=server.url, python=sys.executable, models=9, log=message.append
    )
    lost = [line for line in message if "is busy" not in line]  # so may this machine be
    assert len(lost) >= 2
    assert all("trying again" in line for line in lost)
    assert sorted(r.model for r in read(tmp_path / "t.jsonl") if isinstance(r, EndToEndTime)) == list(range(9))
    assert result.cells == len(cells(tmp_path / "t.jsonl"))


def test_a_device_that_stays_away_is_an_error_that_keeps_what_was_measured(
    server: SshServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_device, "RETRY_S", 1.0)
    seen: list[int] = []

    def progress(done: int, _: int, __: str) -> None:
        seen.append(done)
        if done == building.BATCH:
            server.stop()

    with pytest.raises(NetadaptError, match=r"was lost.*run the same command again"):
        profile(model, tmp_path / "t.jsonl", device=server.url, python=sys.executable, models=9, progress=progress)
    assert sum(isinstance(r, EndToEndTime) for r in read(tmp_path / "t.jsonl")) == building.BATCH


def test_another_host_key_is_refused_at_once(server: SshServer, model: Path, tmp_path: Path) -> None:
    server.trust("other")
    message: list[str] = []
    with pytest.raises(NetadaptError, match="cannot be reached: Host key verification failed"):
        profile(model, tmp_path / "t.jsonl", device=server.url, log=message.append)
    assert not message  # it is not tried again
    assert not (tmp_path / "t.jsonl").exists()


def test_what_cannot_be_reached_or_used_is_one_line(
    server: SshServer, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, python, message in (
        ("ssh://127.0.0.1:1", "python3", "Connection refused"),
        ("ssh://-oProxyCommand=touch", "python3", "is not ssh://"),
        ("telnet://pi", "python3", "no device 'telnet://pi'"),
        (server.url, "no such python", "the agent cannot run"),
    ):
        arguments = ["profile", str(model), "--table", str(tmp_path / "t.jsonl"), "--device", name]
        assert cli.run([*arguments, "--python", python]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert message in lines[0]
    assert not (tmp_path / "t.jsonl").exists()
    assert not list((server.home / ".cache/netadapt-onnx").iterdir())  # nor does anything stay there


def test_nothing_of_a_measurement_that_fails_stays_on_the_device(
    server: SshServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "contradiction", lambda *_: "ms: not what was asked for")
    with pytest.raises(NetadaptError, match="ms: not what was asked for"):
        profile(model, tmp_path / "t.jsonl", device=server.url, python=sys.executable, models=4)
    assert not list((server.home / ".cache/netadapt-onnx").iterdir())


def test_a_killed_host_goes_on_and_cleans_up(server: SshServer, model: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    code = (
        "import sys; from netadapt_onnx.api.profile import profile\n"
        "profile(sys.argv[1], sys.argv[2], device=sys.argv[3], python=sys.executable, models=16)"
    )
    host = subprocess.Popen([sys.executable, "-c", code, str(model), str(table), server.url])
    while host.poll() is None and not (table.exists() and b'"whole"' in table.read_bytes()):
        time.sleep(0.02)
    time.sleep(float(np.random.default_rng(0).uniform(0, 1)))
    host.kill()
    host.wait()
    kept = [line for line in table.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert sum(b'"whole"' in line for line in kept) >= 8
    profile(model, table, device=server.url, python=sys.executable, models=16)
    end_to_end = [line for line in kept if b'"whole"' in line]
    assert [line for line in table.read_bytes().splitlines(keepends=True) if b'"whole"' in line][
        : len(end_to_end)
    ] == end_to_end
    assert not list((server.home / ".cache/netadapt-onnx").iterdir())


def test_files_stay_on_the_device_when_asked(server: SshServer, model: Path, tmp_path: Path) -> None:
    profile(model, tmp_path / "t.jsonl", device=server.url, python=sys.executable, models=4, keep=True)
    assert list(server.home.rglob("*.onnx"))
    assert list(server.home.rglob("*.jsonl"))


def test_a_silent_device_is_lost_and_damage_is_mended(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = SshShell(server.url, "test")
    with monkeypatch.context() as patch, pytest.raises(ConnectionLostError, match="no sign of life"):
        patch.setattr(shell, "SILENCE_S", 0.5)
        list(target.stream("sleep 3000"))
    with pytest.raises(ChildProcessError, match="what it said"):
        list(target.stream("echo what it said >&2; exit 3"))
    with pytest.raises(ConnectionLostError, match="signal 9"):
        list(target.stream("kill -9 $$"))
    assert list(target.stream("echo one; echo; echo two")) == [b"one\n", b"two\n"]
    assert target.call("exit 7").returncode == 7
    with pytest.raises(NetadaptError, match="no none came back"):
        target.pull("none")


class Vandal(SshShell):
    """Damages the first models that it brings there."""

    def __init__(self, server: SshServer) -> None:
        super().__init__(server.url, "test")
        self._home = server.home
        self._damaged = False

    def push(self, files: Sequence[Path]) -> None:
        super().push(files)
        for path in [] if self._damaged else self._home.rglob("*.onnx"):
            path.write_bytes(b"half a mod")
            self._damaged = True


def test_damaged_files_are_brought_again(server: SshServer, model: Path, tmp_path: Path) -> None:
    message: list[str] = []
    device = RemoteDevice(Vandal(server), python=sys.executable, log=message.append)
    result = profile(model, tmp_path / "t.jsonl", device=device, models=4)
    device.close()
    assert result.cells
    assert [line for line in message if "is damaged: copy it again; trying again" in line]


def test_a_device_says_what_a_model_computes_there(server: SshServer) -> None:
    proto = residual(16, size=8)
    folded = fold(proto)
    device = RemoteDevice(SshShell(server.url, "answers"), python=sys.executable)
    batches = [random_inputs(folded.specs, seed) for seed in range(3)]
    answers = outputs_on_device(device, CPU, folded.proto, batches)
    assert answers is not None
    local = session(folded.proto)
    for inputs, result in zip(batches, answers, strict=True):
        for name, value in run(local, inputs).items():
            np.testing.assert_allclose(result[name], value, rtol=0, atol=1e-4 * value.std())
    assert probe_int8(device) == probe_int8(LocalDevice())
    assert not list(server.home.rglob("*.npz"))
    device.close()
