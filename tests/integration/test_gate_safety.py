"""Models of strangers: what they name, declare and contain harms nobody, and ends in 0, 1 or 2 with one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import models
from gate_fixtures import document, run, save, small
from models import Builder
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.jobs import CountJob
from netadapt_onnx.gating.records import Facts
from netadapt_onnx.gating.sandbox import Sandbox


def external(folder: Path, location: str, **entries: str) -> Path:
    """A model whose weights are said to be at `location`."""
    proto = small()
    for tensor in proto.graph.initializer:
        if tensor.name == "conv1.weight":
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": location, **entries}.items():
                tensor.external_data.add(key=key, value=value)
    return save(proto, folder / "m.onnx")


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", "link", "links/secret", "fifo"])
def test_data_outside_the_folder_are_refused(
    location: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "secret").write_bytes(b"\0" * 10_000)
    folder = workspace / "models"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "links").symlink_to(workspace)
    os.mkfifo(folder / "fifo")
    model = external(folder, location)
    for command in (("gate", model, "--max", "size=1MB"), ("diff", model, model)):
        output = document(capsys, *command, code=2)
        assert output["error"]["code"] == "external-data"
        assert "outside the model's folder" in output["error"]["message"] or location == "fifo"


@pytest.mark.parametrize(
    "entries", [{"offset": "9000"}, {"offset": "-8"}, {"length": "999999999999"}, {"offset": "x"}, {"length": "16"}]
)
def test_data_that_are_not_all_there_are_refused(
    entries: dict[str, str], workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "w.bin").write_bytes(b"\0" * 8_000)
    model = external(workspace, "w.bin", **entries)
    assert document(capsys, "gate", model, "--max", "size=1MB", code=2)["error"]["code"] in (
        "external-data",
        "not-onnx",
    )


def test_a_size_counts_external_data(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save_model(small(), str(workspace / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    output = document(capsys, "gate", "m.onnx", "--max", "size=40kB", code=1)
    assert output["models"][0]["resources"]["size_bytes"] == sum(f.stat().st_size for f in workspace.iterdir())


def declared_bomb() -> onnx.ModelProto:
    """More weights than the file has bytes."""
    proto = small()
    proto.graph.initializer[0].dims[0] = 1 << 40
    return proto


def computed_bomb() -> onnx.ModelProto:
    """A constant of terabytes, of a few bytes."""
    b = Builder()
    big = b.node("ConstantOfShape", [b.constant("shape", np.array([1 << 40]))], "bomb")
    b.node("Add", ["x", b.node("Gather", [big, b.constant("one", np.array([1]))])], output="y")
    return b.model({"x": (1,)}, {"y": (1,)})


def expanding_bomb() -> onnx.ModelProto:
    """Activations of terabytes."""
    b = Builder()
    shape = b.constant("shape", np.array([1 << 20, 1 << 20, 3]))
    b.node("ReduceSum", [b.node("Expand", ["x", shape], "bomb")], output="y", keepdims=0)
    return b.model({"x": (1,)}, {"y": ()})


def overflowing_bomb() -> onnx.ModelProto:
    """So many that the count of bytes would overflow to nothing."""
    proto = small()
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend([1 << 32, 1 << 32])
    return proto


class Bytes:
    """A file that protobuf would not write."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def SerializeToString(self) -> bytes:
        return self.data


def nested_bomb() -> Bytes:
    """Branches within branches, deeper than protobuf follows."""

    def field(number: int, data: bytes) -> bytes:
        size, length = b"", len(data)
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + data

    graph = b""
    for _ in range(5000):
        branch = field(1, b"then_branch") + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, branch))
    return Bytes(b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11"))


@pytest.mark.parametrize("bomb", [declared_bomb, computed_bomb, expanding_bomb, overflowing_bomb, nested_bomb])
def test_bombs_exit_2(bomb: Any, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "m.onnx").write_bytes(bomb().SerializeToString())
    run(capsys, "gate", "m.onnx", "--max", "size=1GB", "--memory-limit", "2GB", code=2)


def test_a_sparse_file_of_terabytes_is_not_read(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (workspace / "m.onnx").open("wb") as file:
        file.truncate(1 << 40)
    assert "2 GiB" in run(capsys, "gate", "m.onnx", "--max", "size=1MB", code=2)


def test_archives_that_expand_are_stopped_by_the_memory_limit(workspace: Path) -> None:
    save(small(), workspace / "m.onnx")
    np.savez_compressed(
        workspace / "d.npz", x_val=np.zeros((1 << 24, 3), np.float64), y_val=np.zeros(1)
    )  # 400 MB of zeros
    from netadapt_onnx.api.gate import gate

    with Sandbox(60, 350 * 10**6) as limited, pytest.MonkeyPatch.context() as patch:
        patch.setattr("netadapt_onnx.api.gate.Sandbox", lambda *_: limited)
        result = gate("m.onnx", min={"accuracy": 0.5}, data="d.npz")
    assert result.error is not None
    assert result.models[0].checks[0].code == "too-large"


# --- the process that reads ------------------------------------------------------------------------------------------


def test_a_job_that_takes_too_long_is_ended_and_the_next_is_done(tmp_path: Path) -> None:
    model = save(small(), tmp_path / "m.onnx")
    with Sandbox(30) as sandbox:
        sandbox.ask(CountJob(str(model)), Facts)
        first = sandbox._process
        assert first is not None
        sandbox.timeout_s = 1e-6
        with pytest.raises(NetadaptError) as caught:
            sandbox.ask(CountJob(str(model)), Facts)
        assert caught.value.code == "timeout"
        assert first.poll() is not None
        sandbox.timeout_s = 30.0
        assert sandbox.ask(CountJob(str(model)), Facts).params == 11274


def test_an_endless_loop_is_counted_and_ended_where_it_must_run(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(models.endless(), workspace / "m.onnx")
    run(capsys, "gate", "m.onnx", "--max", "size=1MB", "--max", "macs=1M")
    monkeypatch.undo()  # a process of its own, with the time limit of the command line
    monkeypatch.chdir(workspace)
    output = document(capsys, "gate", "m.onnx", "--max", "size=1MB", "--max", "latency=1s", "--timeout", "4s", code=2)
    size, latency = sorted(output["models"][0]["checks"], key=lambda check: check["code"])
    assert size["ok"] is True
    assert latency["code"] == "timeout"


def test_a_crash_is_one_failure(tmp_path: Path) -> None:
    model = save(small(), tmp_path / "m.onnx")
    with Sandbox(30) as sandbox:
        sandbox.ask(CountJob(str(model)), Facts)
        assert sandbox._process is not None
        sandbox._process.kill()
        with pytest.raises(NetadaptError) as caught:
            sandbox.ask(CountJob(str(model)), Facts)
        assert caught.value.code == "crash"
        assert sandbox.ask(CountJob(str(model)), Facts).params == 11274


def test_the_folder_that_one_is_in_is_not_imported_from(workspace: Path) -> None:
    save(small(), workspace / "m.onnx")
    for name in ("numpy", "onnx", "onnxruntime", "tabulate", "json"):
        (workspace / f"{name}.py").write_text("raise SystemExit('stranger')\n")
    with Sandbox(30) as fresh:
        assert fresh.ask(CountJob("m.onnx"), Facts).params == 11274


def test_nobody_is_left_behind(tmp_path: Path) -> None:
    """A parent that is killed takes its reader with it: the reader's stdin ends."""
    code = (
        "import sys\nfrom netadapt_onnx.gating.sandbox import Sandbox\n"
        "from netadapt_onnx.gating.jobs import LocateJob\n"
        "s = Sandbox(30)\ns.ask(LocateJob(sys.argv[1]), list)\nprint(s._process.pid, flush=True)\nsys.stdin.read()"
    )
    model = save(small(), tmp_path / "m.onnx")
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None and parent.stdin is not None
    reader = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()
    for _ in range(100):
        if not _alive(reader):
            return
        import time

        time.sleep(0.1)
    pytest.fail("the reader outlived its parent")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
