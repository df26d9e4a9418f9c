"""The command line as people expect it: help as data, completion, quiet and verbose, colours, widths, what is next."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest

from models import plain
from netadapt_onnx import __version__, cli
from netadapt_onnx.common import render
from netadapt_onnx.common.options import OUTPUT, SECTIONS

COMMAND = [sys.executable, "-m", "netadapt_onnx"]
NAMES = [[name] for name in cli.COMMANDS] + [["profile", "bundle"], ["profile", "import"]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(plain().SerializeToString())
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("words", [[], *NAMES], ids=" ".join)
@pytest.mark.parametrize("before", [True, False])
def test_help_as_data(words: list[str], before: bool, capsys: pytest.CaptureFixture[str]) -> None:
    command_line = ["--json", *words, "--help"] if before else [*words, "-h", "--json"]
    assert cli.run(command_line) == 0
    out, err = capsys.readouterr()
    output = json.loads(out)
    assert (err, output["schema"], output["ok"]) == ("", 1, True)
    assert output["command"] == " ".join(["netadapt-onnx", *words])
    assert output["usage"].startswith(output["command"])
    if words:
        assert "Example" in output["help"] and output["command"] in output["help"]
        assert any("--json" in parameter["names"] for parameter in output["parameters"])
    else:
        assert list(output["commands"]) == list(cli.COMMANDS)


@pytest.mark.parametrize("name", ["adapt", "finetune", "profile", "scale"])
def test_help_is_in_sections_and_its_rarer_options_are_under_help_all(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([name, "--help", "--json"]) == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    options = [one for one in parameters if one["names"][0].startswith("-")]
    # --help is click's own, whose two names come in any order.
    flags = {one["names"][0]: OUTPUT if "--help" in one["names"] else one["section"] for one in options}
    assert {*flags.values()} <= {*SECTIONS}, "every option has a section"
    assert cli.run([name, "--help-all"]) == 0
    everything = capsys.readouterr().out
    assert cli.run([name, "--help"]) == 0
    usual = capsys.readouterr().out
    shown, listed = (
        {flag for flag in flags if re.search(rf"^  (-\w, )?{flag}(?![\w-])", text, re.MULTILINE)}
        for text in (usual, everything)
    )
    assert shown < listed == {*flags}
    assert f"{len(listed) - len(shown)} more options: netadapt-onnx {name} --help-all" in usual
    assert "more options" not in everything
    assert len([flag for flag in shown if flags[flag] != OUTPUT]) <= 21
    headings = [line.removesuffix(":") for line in usual.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == [section for section in SECTIONS if section in headings]
    assert headings[0] == SECTIONS[0]


def test_required_options_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["adapt", "--help"]) == 0
    needed = capsys.readouterr().out.partition("What you need:")[2].partition("\n\n")[0]
    for flag in ("--data", "-o", "--budget"):
        assert "[required" in needed.partition(f"  {flag} ")[2].partition("\n  -")[0].replace("\n", " "), flag


def test_version_and_wrong_names_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "ok": True, "version": __version__}
    assert cli.run(["inspct", "--help", "--json"]) == 2
    assert "did you mean inspect" in json.loads(capsys.readouterr().out)["error"]["hint"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    variable = "_NETADAPT_ONNX_COMPLETE"

    def completion(what: str, **typed: str) -> str:
        environment = os.environ | {variable: f"{shell}_{what}"} | typed
        return subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False).stdout

    script = completion("source")
    assert "netadapt-onnx" in script and variable in script
    suggestions = completion("complete", COMP_WORDS="netadapt-onnx pr", COMP_CWORD="pr" if shell == "fish" else "1")
    assert "prune" in suggestions and "profile" in suggestions and "inspect" not in suggestions


def in_terminal(arguments: list[str], columns: int, **variables: str) -> tuple[str, str]:
    """What a command writes to a terminal of so many columns: stdout, stderr."""
    import fcntl
    import struct
    import termios

    ends = [pty.openpty(), pty.openpty()]
    for _, inner in ends:
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=ends[0][1],
        stderr=ends[1][1],
        env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")} | {"TERM": "xterm"} | variables,
    )
    texts = []
    for _, inner in ends:
        os.close(inner)
    for outer, _ in ends:
        text = b""
        while True:
            try:
                part = os.read(outer, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            text += part
        texts.append(text.decode().replace("\r\n", "\n"))
        os.close(outer)
    process.wait()
    return texts[0], texts[1]


@pytest.mark.parametrize("columns", [66])
def test_nothing_is_wider_than_the_terminal(model: Path, columns: int) -> None:
    for arguments in (
        ["inspect", "model.onnx"],
        ["env"],
        ["inspect", "--help"],
        ["prune", "model.onnx", "--ratio", "0.5", "--verify"],
    ):
        command_line = [arguments[0], *(str(model) if a == "model.onnx" else a for a in arguments[1:])]
        out, _ = in_terminal(command_line, columns)
        lines = [line for line in out.splitlines() if "netadapt-onnx " not in line]  # commands stay whole
        assert max(map(len, lines)) <= columns, command_line


@pytest.mark.parametrize("words", [[], *NAMES], ids=" ".join)
def test_help_fits_the_terminal(words: list[str]) -> None:
    """But for commands, which stay whole so that they can be copied."""
    with cli.group.make_context(cli.PROGRAM, ["env"]) as context:
        command: click.Command = cli.group
        if words:
            command_group = cli.group.get_command(context, words[0])
            assert command_group is not None
            command, _ = cli.below(command_group, "", words[1:])
        for columns in (66, 100):
            name = " ".join(["netadapt-onnx", *words])
            with click.Context(command, info_name=name, terminal_width=columns, max_content_width=columns) as inside:
                lines = command.get_help(inside).splitlines()
            assert max(len(line) for line in lines if "netadapt-onnx " not in line) <= columns


WRONG = [
    (["profle"], "did you mean profile?"),
    (["inspect", "model.onnx", "--explian", "x"], "--explain"),
    (["prune", "model.onnx", "--ratio", "0.5", "--criterion", "fishr"], "did you mean fisher"),
    (["prune", "model.onnx", "--keep", "conv=2"], "did you mean conv3 or conv2"),
    (["inspect", "model.onnx", "--explain", "con1"], "conv1"),
    (["evaluate", "model.onnx", "--data", "data.npz", "--split", "tst"], "test"),
    (["prune", "model.onnx", "--budget", "mac=0.5x"], "macs"),
]


@pytest.mark.parametrize(("arguments", "suggestion"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_names_suggest_the_nearest(
    arguments: list[str],
    suggestion: str,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(model.parent)
    np.savez("data.npz", x_val=np.zeros((4, 3, 16, 16), np.float32))
    assert cli.run(arguments) == 2
    error = capsys.readouterr().err
    assert suggestion in error and len(error.splitlines()) == 1


def test_pipes_get_whole_lines(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["inspect", str(model)]) == 0
    assert "BatchNormalization" in capsys.readouterr().out


def test_colours_are_for_terminals_that_want_them(model: Path) -> None:
    command_line = ["gate", str(model), "--max", "size=1GB"]
    assert "\x1b[3" in in_terminal(command_line, 80)[0]
    assert "\x1b[" not in in_terminal(command_line, 80, NO_COLOR="1")[0]


def test_progress_is_for_terminals_and_not_if_quiet(model: Path, tmp_path: Path) -> None:
    def adapting(name: str, *more: str) -> list[str]:
        data = tmp_path / "data.npz"
        np.savez(data, x_train=np.zeros((8, 3, 16, 16), np.float32), x_val=np.ones((8, 3, 16, 16), np.float32))
        budget = ["--budget", "macs=0.9x", "--final-epochs", "0", "--max-iterations", "1"]
        return ["adapt", str(model), "--data", str(data), *budget, "-o", str(tmp_path / name), *more]

    out, err = in_terminal(adapting("a"), 80)
    assert "adapting" in err and "next: " in out
    out, err = in_terminal(adapting("b", "-q"), 80)
    assert err == "" and "next: " not in out
    done = subprocess.run([*COMMAND, *adapting("c", "-v")], capture_output=True, text=True)
    assert "iteration 1: " in done.stderr


def test_work_that_cannot_say_how_far_it_is_has_a_bar_once_it_takes_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for patience, words in ((60.0, ""), (0.0, "pruning")):
        monkeypatch.setattr(render, "PATIENCE_S", patience)
        with render.spinner("pruning"):
            deadline = time.monotonic() + 30
            seen = ""
            while words not in seen and time.monotonic() < deadline:
                time.sleep(0.01)
                seen += capsys.readouterr().err
        assert words in seen and (words or seen == "")


FOLLOWED = [
    ["env"],
    ["inspect", "model.onnx"],
    ["prune", "model.onnx", "--ratio", "0.5"],
    ["prune", "model.onnx", "--ratio", "0.5", "-o", "half.onnx"],
    ["diff", "model.onnx", "half.onnx"],
    ["time", "model.onnx", "--max-time", "0.2s"],
    ["evaluate", "model.onnx", "half.onnx", "--data", "data.npz", "--no-latency"],
    ["finetune", "half.onnx", "--teacher", "model.onnx", "--data", "data.npz", "--epochs", "1", "-o", "tuned.onnx"],
    ["gate", "model.onnx", "--max", "size=1GB"],
    ["adapt", "model.onnx", "--data", "data.npz", "--budget", "macs=0.9x", "--dry-run"],
    ["adapt", "model.onnx", "--data", "data.npz", "--budget", "macs=0.9x", "--final-epochs", "0", "-o", "run"],
    ["restore", "run", "--iteration", "1", "-o", "one.onnx"],
    ["scale", "model.onnx", "--target", "params=2x", "--method", "uniform", "-o", "sizes"],
    ["profile", "bundle", "model.onnx", "-o", "bundle.zip"],
    ["profile", "model.onnx", "--table", "table.jsonl", "--max-time", "3s"],
    ["profile", "import", "table.jsonl", "--table", "again.jsonl"],
    ["export", "net.py:make", "-o", "net.onnx"],
    ["report", "run", "-o", "page.html"],
]


def test_every_command_ends_with_what_to_run_next(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("data.npz", **{f"x_{s}": rng.standard_normal((8, 3, 16, 16), np.float32) for s in ("train", "val")})
    Path("net.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(4, 2), torch.zeros(1, 4)\n")
    assert {arguments[0] for arguments in FOLLOWED} == {*cli.COMMANDS} - {"demo"}  # which tests/api/test_demo.py runs
    for arguments in FOLLOWED:
        assert cli.run(arguments) == 0, capsys.readouterr().err
        last = capsys.readouterr().out.rstrip("\n").splitlines()[-1]
        assert last.startswith("next: "), arguments


def test_tables_wrap_their_widest_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    text = render.table([["x" * 50, 1], ["b", 2]], ["name", "count"])
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("x") == 50 and "count" in text
