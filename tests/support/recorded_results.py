"""Results that pages show and that take minutes to measure: recorded once, and shown by today's program.

`docs/outputs/PAGE.json` holds what `--json` said of each command of a page, by the command. A replay runs the command
with that result in the place of the work: what a page shows is, to the letter, what the program prints.
"""

from __future__ import annotations

import importlib
import io
import json
import shlex
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from documentation import REPOSITORY
from netadapt_onnx import cli
from netadapt_onnx.reporting import REPORT_FILE
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.run_directory.journal import read_history

FOLDER = REPOSITORY / "docs" / "outputs"
# Commands whose function has another name.
FUNCTIONS = {"time": "measure_latency"}
# Commands that leave a run with a history, which their text shows.
SEARCHES = ("adapt", "demo")


def record_file(page: Path) -> Path:
    """Where the measured results of a page are."""
    return FOLDER / f"{page.stem}.json"


def read_records(page: Path) -> dict[str, Any]:
    """The measured results of a page, by command."""
    file = record_file(page)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write_records(page: Path, records: dict[str, Any]) -> None:
    """Keep the measured results of a page."""
    FOLDER.mkdir(exist_ok=True)
    record_file(page).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def measure(command: str) -> dict[str, Any]:
    """Run a command here and now: its result, and the history of the run that it made."""
    arguments = shlex.split(command, comments=True)[1:]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.run([*arguments, "--json"])
    assert code == 0, f"{command}\n{out.getvalue()}{err.getvalue()}"
    result = json.loads(out.getvalue())
    if arguments[0] not in SEARCHES:
        return {"result": result}
    history = read_history(Path(result["model"]).parent, Step)
    return {"result": result, "history": msgspec.to_builtins(history)}


def replay(command: str, record: dict[str, Any]) -> str:
    """What the program prints for a recorded result."""
    arguments = shlex.split(command, comments=True)[1:]
    name = FUNCTIONS.get(arguments[0], arguments[0])
    api = importlib.import_module(f"netadapt_onnx.api.{name}")
    kind = getattr(api, getattr(api, name).__annotations__["return"])
    result = _decoded(record["result"], kind)
    history = [_decoded(step, Step) for step in record.get("history", [])]
    out, err = io.StringIO(), io.StringIO()
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(api, name, lambda *_, **__: result))
        patches.enter_context(mock.patch("netadapt_onnx.api.report.write_report", _touch_report))
        journal = "netadapt_onnx.search.run_directory.journal.read_history"
        patches.enter_context(mock.patch(journal, lambda *_, **__: history))
        patches.enter_context(redirect_stdout(out))
        patches.enter_context(redirect_stderr(err))
        code = cli.run(arguments)
    assert code == 0, f"{command}\n{out.getvalue()}{err.getvalue()}"
    return out.getvalue()


def _decoded(document: object, kind: Any) -> Any:
    return msgspec.convert(document, type=kind, dec_hook=_decode_other, strict=False)


def _decode_other(kind: Any, value: object) -> object:
    """What msgspec leaves to others: paths, and values of any kind."""
    return value if kind is object else kind(value)


def _touch_report(run: Path, *_: object) -> tuple[str, ...]:
    run.mkdir(parents=True, exist_ok=True)
    (run / REPORT_FILE).touch()
    return ()
