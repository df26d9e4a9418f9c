"""The frame of the command line: exit codes, streams, one JSON document whatever happens, near names."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from interruptible import DEFAULT_SIGINT
from models import plain
from netadapt_onnx import __version__, cli
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.errors import NetadaptError

COMMAND = [sys.executable, "-m", "netadapt_onnx"]


def command_that(monkeypatch: pytest.MonkeyPatch, outcome: object) -> None:
    """Let `env` raise or return `outcome`."""
    import netadapt_onnx.commands.env as module

    @click.command("env")
    @click.option("--json", is_flag=True, expose_value=False)
    @click.option("--debug", is_flag=True, expose_value=False)
    def command() -> CommandResult:
        if isinstance(outcome, BaseException):
            raise outcome
        assert isinstance(outcome, CommandResult)
        return outcome

    monkeypatch.setattr(module, "command", command)


FAILURES = [
    (NetadaptError("bad\nmodel", hint="mend it", code="not-onnx"), "not-onnx", "error: bad model; mend it\n"),
    (PermissionError(13, "Permission denied", "x.onnx"), "system", "error: x.onnx: Permission denied\n"),
    (EOFError("torn"), "internal", "error: EOFError: torn; this is a bug; --debug shows where it happened\n"),
    (MemoryError(), "system", "error: out of memory; use a smaller model, --batch-size or data set\n"),
    (ModuleNotFoundError("no", name="torch"), "missing-package", "error: this needs the package 'torch'"),
]


@pytest.mark.parametrize(("error", "code", "line"), FAILURES, ids=[f[1] for f in FAILURES])
def test_what_cannot_be_judged_exits_2_with_one_line(
    error: Exception, code: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(monkeypatch, error)
    assert cli.run(["env"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert cli.run(["env", "--json"]) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert set(document) == {"schema", "ok", "error"}
    assert (document["schema"], document["ok"], document["error"]["code"]) == (1, False, code)
    assert set(document["error"]) == {"code", "message", "hint"}
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command_that(monkeypatch, NetadaptError("bad"))
    assert cli.run(["env", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_exits_130(
    interrupt: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(monkeypatch, interrupt)
    assert cli.run(["env", "--json"]) == 130
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert "error" not in document


@pytest.mark.parametrize("ok", [True, False])
def test_ok_is_true_if_and_only_if_the_exit_code_is_0(
    ok: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(
        monkeypatch, CommandResult({"seconds": float("nan"), "model": Path("m.onnx")}, lambda _: "said", ok=ok)
    )
    assert cli.run(["env", "--json"]) == (0 if ok else 1)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema": 1, "ok": ok, "seconds": None, "model": "m.onnx"}
    assert err == ""
    assert cli.run(["env"]) == (0 if ok else 1)
    assert capsys.readouterr() == ("said\n", "")


USAGE = [
    ([], "missing command"),
    (["inspct", "m.onnx"], "did you mean inspect"),
    (["frobnicate"], "there are inspect, prune"),
    (["inspect"], "MODEL"),
    (["inspect", "m.onnx", "--tabel", "t"], "--table"),
    (["prune", "m.onnx", "--step", "0"], "--step"),
    (["scale", "m.onnx", "--method", "neurascale"], "did you mean neuralscale?"),
    (["inspect", "m.onnx", "--shape", "x=axb"], "NAME=1x3x224x224"),
    (["inspect", "m.onnx", "--shape", f"x=1x{'9' * 5000}"], "NAME=1x3x224x224"),
    (["prune", "m.onnx", "--keep", "conv1"], "GROUP=N"),
    (["prune", "m.onnx", "--ratio", "0.5", "--reconstruct"], "--reconstruct needs inputs"),
    (["prune", "m.onnx", "--keep", "conv1=4", "--keep", "conv1=2"], "'conv1' is given twice"),
    (["inspect", "m.onnx", "--shape", "x=1x3", "--shape", "x=1x4"], "'x' is given twice"),
    (["profile", "m.onnx", "--table", "t.jsonl", "--seed", "-1"], "--seed"),
]


@pytest.mark.parametrize(("arguments", "phrase"), USAGE, ids=[" ".join(a) for a, _ in USAGE])
def test_usage_errors_are_one_line_and_one_document(
    arguments: list[str], phrase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command_line in ([*arguments, "--json"], ["--json", *arguments]):
        assert cli.run(command_line) == 2
        out, err = capsys.readouterr()
        document = json.loads(out)
        assert document["ok"] is False
        text = document["error"]["message"] + document["error"]["hint"]
        assert phrase.lower() in text.lower()
        assert err.count("\n") == 1


def test_without_arguments_it_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"netadapt-onnx {name}" in out
    assert "--json" in out


def test_json_is_what_it_is_after_two_dashes_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", "--", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--json: no such file" in err


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"netadapt-onnx, version {__version__}\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen([*COMMAND, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    process.stderr.close()


@pytest.mark.parametrize(
    ("options", "code"), [(["--ratio", "0.5"], 0), (["--budget", "macs=0.0001x"], 1), (["--ratio", "2"], 2)]
)
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_the_exit_code_stays_when_the_reader_goes_away(
    options: list[str], code: int, as_json: list[str], tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(plain().SerializeToString())
    command_line = [*COMMAND, "prune", str(tmp_path / "model.onnx"), *options, *as_json]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read().count("\n") == (1 if code == 2 else 0)
    assert process.wait() == code
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["inspect", "model.onnx"], ["inspect", "model.onnx", "--json"], ["--version"]])
def test_a_result_that_cannot_be_written_is_an_error(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(plain().SerializeToString())
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_file_names_that_are_no_text_leave_one_document(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.onnx")
    for is_there in (False, True):
        if is_there:
            (tmp_path / name).write_bytes(plain().SerializeToString())
        command_line = [*COMMAND, "prune", name, "--ratio", "0.5", "-o", os.fsdecode(b"\xfe.onnx"), "--json"]
        done = subprocess.run(command_line, capture_output=True, cwd=tmp_path, check=False)
        document = json.loads(done.stdout)
        assert done.returncode == (0 if is_there else 2)
        if is_there:
            assert document["model"] == "?.onnx"
        else:
            assert document["error"]["message"] == "?.onnx: no such file"
            assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a shell that closes streams")
@pytest.mark.parametrize(("arguments", "code"), [("--version >&-", 0), ("env >&-", 0), ("inspct 2>&-", 2)])
def test_streams_that_the_shell_closed_are_read_by_nobody(arguments: str, code: int) -> None:
    done = subprocess.run(f"{shlex.join(COMMAND)} {arguments}", shell=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


CAUGHT = "try:\n    raise KeyboardInterrupt\nexcept BaseException as error:\n    raise ImportError from error\n"


@pytest.mark.parametrize(
    ("library", "code"), [("click", "raise KeyboardInterrupt"), ("onnx", "raise KeyboardInterrupt"), ("onnx", CAUGHT)]
)
def test_ctrl_c_while_libraries_are_imported(library: str, code: str, tmp_path: Path) -> None:
    (tmp_path / f"{library}.py").write_text(code)
    (tmp_path / "m.onnx").write_bytes(b"")
    done = subprocess.run(
        [*COMMAND, "inspect", str(tmp_path / "m.onnx"), "--json"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    text = "interrupted\n" if library == "click" else "interrupted; nothing was written\n"
    assert (done.returncode, done.stderr) == (130, text)
    assert json.loads(done.stdout) == {"schema": 1, "ok": False, "interrupted": True}


def test_ctrl_c_while_it_works_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(plain((32, 64, 64), size=32).SerializeToString())
    table = tmp_path / "t.jsonl"
    command_line = [*DEFAULT_SIGINT, *COMMAND, "profile", str(tmp_path / "model.onnx"), "--table", str(table)]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not table.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (130, "", 1)
    assert err.startswith("interrupted; ")
