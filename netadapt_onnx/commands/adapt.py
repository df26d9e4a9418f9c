"""`netadapt-onnx adapt`: the main job, from a model and a budget to a smaller model that meets it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.commands._config import configured
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._help import SectionedCommand
from netadapt_onnx.commands._options import DATA, MODEL, common, needed, of_run, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.common.escape import escape
from netadapt_onnx.common.options import word_of
from netadapt_onnx.errors import NetadaptError, is_interruption
from netadapt_onnx.reporting import REPORT_FILE
from netadapt_onnx.reporting.table_rows import result_rows, scores, target_cells, verdict
from netadapt_onnx.search.options import AdaptOptions

if TYPE_CHECKING:
    from netadapt_onnx.data.source import DataSource
    from netadapt_onnx.search.result import AdaptResult, Deployed, DryRun, Latency

# Widths of more groups than this would fill the screen; every iteration's plan.toml has them.
MOST_WIDTHS = 24
VERDICTS = {True: "met", False: "MISSED", None: "predicted to be met"}


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
    """Make MODEL smaller, a group of channels at a time, until every budget holds as measured on this machine.

    RUN holds everything of the run; RUN/model.onnx is the result.

    \b
    Examples:  netadapt-onnx adapt model.onnx --data data.npz --budget latency=0.6x -o run
               netadapt-onnx adapt model.onnx --data data.npz --budget macs=0.5x -o run --resume
    """
    from netadapt_onnx.api import adapt as api
    from netadapt_onnx.api.report import write_report

    keywords = keywords_of(options)
    if dry_run:
        with render.progress_bar("planning"):
            proposals = api.dry_run(model, data, **keywords)
        return CommandResult(proposals, _plan)
    if out is None:
        raise click.UsageError("Missing option '-o': the directory of the run")
    try:
        with render.progress_bar("adapting") as log:
            result = api.adapt(model, data, out=out, log=log, **keywords)
            result = replace(result, notes=(*result.notes, *write_report(out)))
    except BaseException as error:
        if not is_interruption(error) or not out.joinpath("run.json").exists():
            raise
        raise KeyboardInterrupt("nothing is lost: repeat the command with --resume") from error
    seen = seen_as(options["shapes"], options["batch_size"])
    hint = "--resume goes on when the machine is quiet; the best model so far is kept"
    return answered(result, lambda shown: text(shown, out, model, data, seen), hint)


def answered(result: AdaptResult, text: Callable[[Any], str], hint: str) -> CommandResult:
    """The answer to a run; `hint` says what to do where a device was too busy for a verdict."""
    if result.stopped != "could-not-judge":
        return CommandResult(result, text, ok=result.met is not False)
    why = next((note for note in result.notes if "could not judge" in note), "could not judge")
    return CommandResult(result, text, ok=False, error=NetadaptError(why, hint=hint, code="could-not-judge"))


def _plan(planned: DryRun) -> str:
    rows = [
        [p.group, *p.channels, *(render.amount(name, value) for name, value in p.resources.items())]
        for p in planned.proposals
    ]
    parts = [
        f"the first iteration is to bring {planned.driver} from "
        f"{render.amount(planned.driver, planned.current[planned.driver])} to "
        f"{render.amount(planned.driver, planned.target)}",
        render.table(rows, ["group", "channels", "then", *planned.current]),
    ]
    if planned.skipped:
        parts.append(f"no proposal of its own: {', '.join(planned.skipped)}")
    chosen = ", ".join(f"{name.replace('_', '-')} {word_of(value)}" for name, value in planned.options.items())
    parts.append(f"preset {planned.preset}: {chosen}")
    return "\n\n".join([*parts, *planned.notes, "next: the same with -o RUN in the place of --dry-run"])


def _models(result: AdaptResult) -> str:
    """A row per target, where there were several."""
    if len(result.models) < 2:
        return ""
    rows = [
        [model.budget, verdict(model.met, model.stopped, VERDICTS), *target_cells(model), model.model]
        for model in result.models
    ]
    return render.table(
        rows, ["target", "", "macs", "params", "latency", result.accuracy.metric, "model"], text_columns=2
    )


def _latency(name: str, latency: Latency) -> str:
    low, high = latency.ci95
    return (
        f"{name} measured in turn with the original, in {latency.sessions} fresh sessions each: {latency.ratio:.3f}x "
        f"(95%: {low:.3f}x to {high:.3f}x), {render.milliseconds(latency.after_ms)} "
        f"after {render.milliseconds(latency.before_ms)}; the table predicted "
        f"{render.milliseconds(latency.predicted_ms)}"
    )


def _deployed(deployed: Deployed) -> str:
    change, (before, after) = deployed.accuracy, scores(deployed.accuracy)
    smaller = [render.size(size) for size in deployed.size_bytes]
    return (
        f"deployed as {deployed.precision} ({deployed.file}): {change.metric} ({change.split}) "
        f"{before} before, {after} after; {smaller[0]} before, {smaller[1]} after"
        + "".join(
            f"; on {name} {render.score(change.metric, on_device.accuracy)}, here "
            f"{render.score(change.metric, on_device.here)} of the same {on_device.samples} samples"
            for name, on_device in deployed.devices.items()
        )
    )


def text(result: AdaptResult, run: Path, model: Path, data: DataSource, shapes: Sequence[str] = ()) -> str:
    """What happened, as tables, and what to try next, with the `shapes` that were given."""
    changed = [[name, *counts] for name, counts in result.groups.items()]
    parts = [
        history(run, result.accuracy.metric),
        _models(result),
        render.table(changed, ["group", "channels before", "after"]),
        f"without the branches {', '.join(result.removed)}" if result.removed else "",
        render.table(result_rows(result), ["", "before", "after", "left"]),
    ]
    parts += [_deployed(result.deployed)] if result.deployed else []
    parts += [_latency(name, latency) for name, latency in result.latencies.items()]
    for name, comparison in result.measured.items():
        parts.append(f"{name} measured beside the original: {comparison.ratio:.3f}x, {comparison.after:.4g}")
    parts += result.notes
    ends = "; ".join(f"{limit.budget} {verdict(limit.met, result.stopped, VERDICTS)}" for limit in result.limits)
    page = f" and {escape(run / REPORT_FILE)}" if (run / REPORT_FILE).exists() else ""
    parts.append(f"{ends} after {result.iterations} iterations and {result.seconds:.0f} s\nwrote {result.model}{page}")
    parts.append(render.next_command("evaluate", model, result.model, *data.flags, *shapes))
    return "\n\n".join(filter(None, parts))


def history(run: Path, metric: str) -> str:
    """A row per iteration: what was cut, accuracy, resources predicted and measured, all widths; empty without any."""
    from netadapt_onnx.common.escape import printable_copy
    from netadapt_onnx.search.netadapt import Step
    from netadapt_onnx.search.run_directory.journal import read_history

    steps = printable_copy(read_history(run, Step))
    if not steps:
        return ""
    measured = list(dict.fromkeys(name for step in steps for name in step.accepted.measured))
    # The resources that drove a step, in the order in which they did, and others that were measured.
    resources = list(dict.fromkeys([*(step.driver for step in steps), *measured]))
    headers = ["iteration", "group", "channels", "then", "accuracy*"]
    for name in resources:
        headers += [name if render.is_counted(name) else f"{name} predicted"]
        headers += ["measured (95%)"] if name in measured else []
    wide = len(steps[0].widths) > MOST_WIDTHS
    rows = []
    for step in steps:
        row = [step.iteration, step.group, *step.channels, render.score(metric, step.accepted.accuracy)]
        for name in resources:
            row.append(render.amount(name, step.resources[name]))
            if name in measured:
                row.append(render.measured(name, step.accepted.measured, step.accepted.measured_ci95))
        rows.append(row if wide else [*row, " ".join(map(str, step.widths.values()))])
    table = render.table(rows, headers if wide else [*headers, "widths"], text_columns=2)
    return f"{table}\n* on held-out samples, before the final training"
