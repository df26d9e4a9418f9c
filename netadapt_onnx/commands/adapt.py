"""`netadapt-onnx adapt`: the main job, from a model and a budget to a smaller model that meets it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.commands._config import configured
from netadapt_onnx.commands._options import (
    DATA,
    DEPLOY,
    EP,
    EP_LIBRARY,
    EP_OPTION,
    FORCE,
    KEEP,
    MODEL,
    PERF_TEST,
    PYTHON,
    SEED,
    THREADS,
    common,
    seen_as,
    shaped,
)
from netadapt_onnx.commands._report import write_report
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common.escape import escape
from netadapt_onnx.errors import NetadaptError, is_interruption
from netadapt_onnx.reporting import REPORT_FILE

if TYPE_CHECKING:
    from netadapt_onnx.data.source import DataSource
    from netadapt_onnx.search.result import AdaptResult, Deployed, DryRun, Latency


@click.command("adapt", short_help="Make a model smaller until it meets a budget.")
@MODEL
@DATA
@click.option(
    "--budget",
    multiple=True,
    required=True,
    metavar="RESOURCE=V",
    help="latency=12ms, latency=0.6x, macs=20M, params=300k, size=4MB, memory=0.5x, energy=5mJ, custom=0.7x or "
    "latency@NAME=12ms; all of several must hold. latency=0.8x,0.6x makes a model for each.",
)
@click.option("-o", "out", type=click.Path(path_type=Path), metavar="RUN", help="The run's directory; required.")
@click.option(
    "--table",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Latency table from `profile`; built if need be. NAME is a device's.",
)
@FORCE
@click.option(
    "--device",
    multiple=True,
    metavar="[NAME=]DEVICE",
    help="Where to measure: local, ssh://[user@]host[:port], adb://SERIAL, or bundle (by hand: nothing is measured). "
    "Several by name, for --budget latency@NAME=12ms.",
)
@click.option(
    "--resource-command",
    metavar="CMD",
    help="A program that is given a model and prints a number: the resource of --budget custom=0.7x.",
)
@EP
@EP_OPTION
@EP_LIBRARY
@THREADS
@DEPLOY
@PYTHON
@PERF_TEST
@KEEP
@SEED
@click.option(
    "--criterion",
    help="Which channels stay: l2, l1, group-l2, fpgm, bn-scale, random, first; by data: taylor, fisher, activation.  "
    "[default: l2; knapsack: taylor]",
)
@click.option(
    "--strategy",
    type=click.Choice(["netadapt", "knapsack"]),
    default="netadapt",
    show_default=True,
    help="A group at a time, by trying; or all at once in a few rounds, by importance against cost.",
)
@click.option(
    "--rank",
    type=click.Choice(["reconstruct", "finetune"]),
    default="reconstruct",
    show_default=True,
    help="Adapt each proposal by least squares, or by short training.",
)
@click.option(
    "--select",
    type=click.Choice(["ratio", "accuracy"]),
    default="ratio",
    show_default=True,
    help="The winner loses least accuracy per resource saved, or simply has the highest.",
)
@click.option(
    "--init-reduction", metavar="AMOUNT", help="The first step, e.g. 0.5ms, 2M or 0.05x; instead of the share."
)
@click.option("--init-reduction-ratio", type=float, default=0.025, show_default=True, help="The first step's share.")
@click.option("--decay", type=float, default=0.96, show_default=True, help="Each step is this much of the one before.")
@click.option(
    "--reduction-of",
    type=click.Choice(["initial", "current"]),
    default="initial",
    show_default=True,
    help="Steps are shares of the original's resource, or of what is left.",
)
@click.option(
    "--step",
    multiple=True,
    metavar="N|auto|OP=N",
    help="Channel counts are multiples of this, of the table's latency steps, or, for layers of OP, of N (Gemm=64).  "
    "[default: 8]",
)
@click.option("--min-channels", type=int, help="No group gets narrower than this.")
@click.option("--freeze", multiple=True, metavar="GROUP", help="Leave this group as it is; * and ? match any name.")
@click.option("--floor", multiple=True, metavar="GROUP=32", help="No fewer channels (or 0.5x of them) in this group.")
@click.option(
    "--prune-small", is_flag=True, help="Groups that cannot reach a step's target alone go as far as they can."
)
@click.option(
    "--allow-block-removal", is_flag=True, help="Residual branches may go whole, where their sum can do without."
)
@click.option("--short-term", type=int, help="Training steps per proposal (finetune) or per winner (reconstruct).")
@click.option("--short-term-lr", type=float, help="Their learning rate.")
@click.option(
    "--freeze-front",
    is_flag=True,
    help="Proposals train only what lies behind their cut; the rest is computed once for all of them.",
)
@click.option("--final-epochs", type=int, help="Training at the end.")
@click.option("--augment", is_flag=True, help="Shift and mirror images at random in the training at the end.")
@click.option("--max-iterations", type=int, help="Stop after this many in total.")
@click.option("--max-time", metavar="30m", help="Stop after this long in total, with the best model so far.")
@click.option("--min-accuracy", type=float, help="Never take a step that leaves less than this, a fraction.")
@click.option("--save-interval", type=int, help="Keep the model of every Nth iteration only; plans are always kept.")
@click.option(
    "--executor",
    metavar="local[:N]|ray[:ADDRESS]",
    help="Who tries the proposals: this process, N worker processes, or Ray (without an address on this machine).",
)
@click.option("--gpus", metavar="0,2", help="GPUs of this machine, one worker each.")
@click.option("--job-timeout", metavar="6h", help="Give a proposal up after this long.")
@click.option("--resume", is_flag=True, help="Continue the run in RUN; start it if there is none.")
@click.option("--dry-run", "planning", is_flag=True, help="Show the first iteration's proposals and stop.")
@shaped
@configured("adapt", without=("resume", "dry-run"), files=("table", "data"))
@common
def command(
    model: Path, data: DataSource, budget: tuple[str, ...], out: Path | None, planning: bool, **options: Any
) -> CommandResult:
    """Make MODEL smaller, a group of channels at a time, until every budget holds as measured on this machine.

    RUN holds everything of the run; RUN/model.onnx is the result.

    \b
    Examples:  netadapt-onnx adapt model.onnx --data data.npz --budget latency=0.6x -o run
               netadapt-onnx adapt model.onnx --data data.npz --budget macs=0.5x -o run --resume
    """
    from netadapt_onnx.api.adapt import adapt, dry_run
    from netadapt_onnx.common import render

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if planning:
        for name in ("resume", "executor", "gpus", "job_timeout"):
            given.pop(name, None)
        with render.progress_bar("planning"):
            planned = dry_run(model, data, budget, **given)
        return CommandResult(planned, _plan)
    if out is None:
        raise click.UsageError("Missing option '-o': the directory of the run")
    try:
        with render.progress_bar("adapting") as log:
            result = adapt(model, data, budget, out, log=log, **given)
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
    from netadapt_onnx.common import render

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
    return "\n\n".join([*parts, *planned.notes, "next: the same with -o RUN in the place of --dry-run"])


def _models(result: AdaptResult) -> str:
    """A row per target, where there were several."""
    from netadapt_onnx.common import render

    if len(result.models) < 2:
        return ""
    rows = [
        [
            m.budget,
            _verdict(m.met, m.stopped),
            render.count(m.after.macs),
            render.count(m.after.params),
            render.milliseconds(m.after.latency_ms),
            render.score(m.accuracy.metric, m.accuracy.after),
            m.model,
        ]
        for m in result.models
    ]
    return render.table(
        rows, ["target", "", "macs", "params", "latency", result.accuracy.metric, "model"], text_columns=2
    )


def _latency(name: str, found: Latency) -> str:
    from netadapt_onnx.common import render

    low, high = found.ci95
    return (
        f"{name} measured in turn with the original, in {found.sessions} fresh sessions each: {found.ratio:.3f}x "
        f"(95%: {low:.3f}x to {high:.3f}x), {render.milliseconds(found.after_ms)} "
        f"after {render.milliseconds(found.before_ms)}; the table predicted {render.milliseconds(found.predicted_ms)}"
    )


def _deployed(found: Deployed) -> str:
    from netadapt_onnx.common import render

    change, (before, after) = found.accuracy, found.size_bytes
    return (
        f"deployed as {found.precision} ({found.file}): {change.metric} ({change.split}) "
        f"{render.score(change.metric, change.before)} before, "
        f"{render.score(change.metric, change.after)} after; "
        f"{render.amount('size', before)} before, {render.amount('size', after)} after"
        + "".join(
            f"; on {name} {render.score(change.metric, there.accuracy)}, here "
            f"{render.score(change.metric, there.here)} of the same {there.samples} samples"
            for name, there in found.devices.items()
        )
    )


def _verdict(met: bool | None, stopped: str) -> str:
    if met is None:
        return "could not be judged" if stopped == "could-not-judge" else "predicted to be met"
    return "met" if met else "MISSED"


def text(result: AdaptResult, run: Path, model: Path, data: DataSource, shapes: Sequence[str] = ()) -> str:
    """What happened, as tables, and what to try next, with the `shapes` that were given."""
    from netadapt_onnx.commands._history import history
    from netadapt_onnx.common import render

    found = result.accuracy
    changed = [[name, *counts] for name, counts in result.groups.items()]
    parts = [
        history(run, found.metric),
        _models(result),
        render.table(changed, ["group", "channels before", "after"]),
        f"without the branches {', '.join(result.removed)}" if result.removed else "",
        render.table(
            [
                *render.cost_rows(asdict(result.before), asdict(result.after)),
                *render.normalised_rows(result.before.latency_ms, result.normalised),
                [
                    f"{found.metric} ({found.split})",
                    *(render.score(found.metric, value) for value in (found.before, found.after)),
                    "",
                ],
            ],
            ["", "before", "after", "left"],
        ),
    ]
    if result.deployed:
        parts.append(_deployed(result.deployed))
    for name, latency in result.latencies.items():
        parts.append(_latency(name, latency))
    for name, found_now in result.measured.items():
        parts.append(f"{name} measured beside the original: {found_now.ratio:.3f}x, {found_now.after:.4g}")
    parts += [*result.notes]
    verdict = "; ".join(f"{limit.budget} {_verdict(limit.met, result.stopped)}" for limit in result.limits)
    parts.append(f"{verdict} after {result.iterations} iterations and {result.seconds:.0f} s\nwrote {result.model}")
    page = run / REPORT_FILE
    parts[-1] += f" and {escape(page)}" if page.exists() else ""
    parts.append(render.next_command("evaluate", model, result.model, *data.flags, *shapes))
    return "\n\n".join(filter(None, parts))
