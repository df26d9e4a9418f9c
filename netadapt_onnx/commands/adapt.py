"""`netadapt-onnx adapt`: the main job, from a model and a budget to a smaller model that meets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.commands._adapt_text import plan_text, result_text
from netadapt_onnx.commands._config import configured
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._help import SectionedCommand
from netadapt_onnx.commands._next import again, interruptible, unused_path
from netadapt_onnx.commands._options import DATA, MODEL, common, needed, of_run, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.common.escape import shell_command
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.options import AdaptOptions

if TYPE_CHECKING:
    from netadapt_onnx.data.source import DataSource
    from netadapt_onnx.search.result import AdaptResult


@click.command("adapt", cls=SectionedCommand)
@MODEL
@DATA
@needed(
    "-o",
    "out",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Directory of the run.  [required, except with --dry-run]",
)
@declared(AdaptOptions)
@of_run("--dry-run", is_flag=True, help="Show the proposals of the first iteration, and stop before any is tried.")
@configured("adapt", without=("resume", "dry-run"), files=("table", "data"))
@common
def command(model: Path, data: DataSource, out: Path | None, dry_run: bool, **options: Any) -> CommandResult:
    """Make MODEL smaller until it meets every budget, as measured on the device, with the least accuracy lost.

    The result is RUN/model.onnx, and RUN/report.html explains it. RUN holds everything of the run.
    Exit codes: 0: target met, 1: ran, target not met, 2: error, or the device was too busy to tell.

    \b
    Examples:  netadapt-onnx adapt model.onnx --data data.npz --budget latency=0.6x -o run
               netadapt-onnx adapt model.onnx --data data.npz --budget macs=0.5x -o run --resume
    """
    from netadapt_onnx.api import adapt as api
    from netadapt_onnx.api.report import write_report
    from netadapt_onnx.common.memory import share_heap

    share_heap()
    keywords = keywords_of(options)
    if dry_run:
        return _dry_run(model, data, out, keywords)
    if out is None:
        raise click.UsageError("Missing option '-o', the directory of the run")
    go_on = again("--resume")
    with interruptible(lambda: _kept(out, go_on)), render.progress_bar("adapting") as log:
        result = api.adapt(model, data, out=out, log=log, **keywords)
        result = replace(result, notes=(*result.notes, *write_report(out)))
    follow = next_step(result, out, model, data, options)
    hint = f"the best model so far is kept; when the machine is quiet, go on with `{go_on}`"
    return answered(result, lambda shown: result_text(shown, out, model, follow), hint)


def _dry_run(model: Path, data: DataSource, out: Path | None, keywords: Mapping[str, Any]) -> CommandResult:
    """The plan of the first iteration, with the command that runs it by the same tables."""
    from netadapt_onnx.api import adapt as api

    name = Path(model.stem) if out is None else out
    go_on = again()
    with interruptible(lambda: f"what was measured is kept; go on with `{go_on}`"), render.progress_bar("planning"):
        proposals = api.dry_run(model, data, tables_beside=name, **keywords)
    tables = [word for name, file in proposals.tables.items() for word in ("--table", _named_table(name, file))]
    run = () if out is not None else ("-o", unused_path(Path("run")))
    follow = again(*run, *tables, without=("--dry-run",))
    return CommandResult(proposals, lambda shown: plan_text(shown, follow))


def _named_table(resource: str, file: Path) -> str:
    """A table as `--table` takes it: of a named device with its name."""
    device = resource.partition("@")[2]
    return f"{device}={file}" if device else str(file)


def _kept(run: Path, go_on: str) -> str:
    """What an interrupted run leaves, and how to go on with it."""
    if not run.joinpath("run.json").exists():
        return "nothing was written yet"
    return f"nothing is lost, {run} has all results so far; go on with `{go_on}`"


def next_step(result: AdaptResult, run: Path, model: Path, data: DataSource, options: Mapping[str, Any]) -> str:
    """The command to run after a search: it compares the result with the original, on the device where that can be.

    Args:
        result: The result of the search.
        run: The run's directory.
        model: The original.
        data: The data of the search.
        options: The options of `adapt`.
    """
    seen = seen_as(options["shapes"], options["batch_size"])
    devices = [text.rpartition("=")[2] for text in options["device"]] or ["local"]
    execution = [] if options["ep"] == "cpu" else ["--ep", options["ep"]]
    execution += [] if options["threads"] == 1 else ["--threads", options["threads"]]
    if "bundle" in devices:
        bundle = unused_path(run.with_name(f"{run.name}-compare.zip"))
        deploy = ["--deploy", options["deploy"], *data.flags] if options["deploy"] != "float" else []
        words = ["profile", "bundle", result.model, "--compare", model, "-o", bundle, *execution, *deploy, *seen]
        return shell_command(["netadapt-onnx", *words])
    if devices != ["local"]:  # the latency on this machine says nothing of another device
        words = ["time", model, result.model, "--device", devices[0], *execution, *seen]
        return shell_command(["netadapt-onnx", *words])
    return shell_command(
        ["netadapt-onnx", "evaluate", model, result.model, *data.flags, *split_of(result), *execution, *seen]
    )


def split_of(result: AdaptResult) -> list[str]:
    """The option with which `evaluate` shows the accuracies of the result again."""
    return ["--split", "test"] if result.accuracy.split == "test" else []


def answered(result: AdaptResult, text: Callable[[Any], str], hint: str) -> CommandResult:
    """The answer to a run; `hint` says what to do where a device was too busy for a verdict."""
    if result.stopped != "could-not-judge":
        return CommandResult(result, text, ok=result.met is not False)
    why = next((note for note in result.notes if "could not judge" in note), "could not judge")
    return CommandResult(result, text, ok=False, error=NetadaptError(why, hint=hint, code="could-not-judge"))
