"""`netadapt-onnx profile`: a latency table of this machine, or of a device that it reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.api.options import ProfileOptions
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._help import SectionedCommand
from netadapt_onnx.commands._next import again, interruptible, unused_path
from netadapt_onnx.commands._options import MODEL, common, data_options, needed, seconds, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.common.escape import escape, shell_command
from netadapt_onnx.common.options import DEVICES, declared_options

if TYPE_CHECKING:
    from netadapt_onnx.api.evaluate import Latency
    from netadapt_onnx.api.profile import ProfileResult
    from netadapt_onnx.data.source import DataSource


# A device that changes its speed more than this is not idle, or too hot.
DRIFT = 0.15


class Profile(SectionedCommand):
    """`profile` with its subcommands `profile bundle` and `profile import`."""

    @property
    def subcommands(self) -> dict[str, click.Command]:
        """The subcommands by name."""
        from netadapt_onnx.commands.profile_bundle import bundle_command, import_command

        return {"bundle": bundle_command, "import": import_command}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """That of the command which the first word names."""
        if args and args[0] in ("bundle", "import"):
            return self.subcommands[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("profile", cls=Profile)
@MODEL
@needed(
    "--table",
    type=click.Path(path_type=Path),
    required=True,
    help="The table to write; an unfinished one is continued.",
)
@data_options(required=False, use="Inputs to calibrate --deploy int8 with", section=DEVICES)
@declared(ProfileOptions, {"time_cap_s": {"type": click.STRING, "default": "100s", "callback": seconds}})
@common
def command(model: Path, table: Path, data: DataSource | None, **options: Any) -> CommandResult:
    """Measure a device: time random-width versions of MODEL there, and write a latency table that predicts any width.

    For a device that this machine cannot reach see `profile bundle --help` and `profile import --help`.

    \b
    Examples:  netadapt-onnx profile model.onnx --table cpu.jsonl --validate 10
               netadapt-onnx profile model.onnx --table cpu.jsonl --per-layer
               netadapt-onnx profile model.onnx --table pi.jsonl --device ssh://pi@raspberrypi
    """
    logged: list[str] = []
    with interruptible(lambda: _kept(table, options["overwrite"])), render.progress_bar("profiling") as shown:
        from netadapt_onnx.api.profile import profile

        def log(line: str) -> None:
            logged.append(escape(line))
            if shown is not None:
                shown(line)

        result = profile(model, table, data=data, log=None if shown is None else log, **keywords_of(options))
    seen = seen_as(options["shapes"], options["batch_size"])
    follow = _follow(table, model, data, options)
    return CommandResult(result, lambda shown: _text(shown, model, logged, follow, seen))


def _kept(table: Path, overwrite: bool) -> str:
    """What an interrupted build leaves, and how to go on with it."""
    if overwrite or not table.exists():
        return f"{table} is as it was; run the command again"
    return f"what was measured is kept in {table}; go on with `{again()}`"


def _circumstances(result: ProfileResult) -> list[str]:
    """How many versions were measured how well, and on how steady a device."""
    rest = result.versions - result.precise
    why = "" if result.stopped == "done" else f" (stopped: {result.stopped})"
    timed = render.plural(result.versions, "version")
    text = f"{timed} of the model with random widths: {result.precise} timed to within 1%{why}"
    if rest:
        text += f", {rest} less precisely, because their share of the time was used up"
    lines = [text]
    if result.drift > DRIFT and not result.disturbance.busy:
        lines.append(
            f"the device changed its speed by {result.drift:.0%} meanwhile; measure again when it is idle and cool"
        )
    return lines


def _takes(result: ProfileResult, model: Path, seen: Sequence[str]) -> str:
    """What the model takes: the file as given, and what the table is of, where these are two things."""
    normalised, own = _timed(result.latency_ms), result.as_given
    if own is None:
        return f"the model takes {normalised}"
    words = ["netadapt-onnx", "prune", model, "--ratio", 0, "-o", unused_path(Path("normalised.onnx")), *seen]
    return (
        f"{escape(model.name)} as given takes {_timed(own.latency_ms)}. Normalised, as the table has it, it takes "
        f"{normalised}: {own.normalised_ratio:.3f}x, measured in turn; `{shell_command(words)}` writes it normalised"
    )


def _timed(latency: Latency) -> str:
    return f"{render.milliseconds(latency.median)} (95%: {latency.ci95[0]:.3g} to {latency.ci95[1]:.3g} ms)"


def _follow(table: Path, model: Path, data: DataSource | None, options: Mapping[str, Any]) -> str:
    """What to do with a table: adapt by it on the same device, where there are data to adapt with, or look at it."""
    seen = seen_as(options["shapes"], options["batch_size"])
    if data is None:
        return render.next_command("inspect", model, "--table", table, *seen)
    budget = ["--budget", "latency=0.7x", "--table", table, "-o", unused_path(Path("run"))]
    return render.next_command("adapt", model, *data.flags, *budget, *_measured_by(options), *seen)


def _measured_by(options: Mapping[str, Any]) -> list[object]:
    """The options of this command by which `adapt` measures on the same device in the same way."""
    usual = declared_options(ProfileOptions)
    names = ("device", "ep", "ep_library", "threads", "deploy", "python", "perf_test")
    changed = [name for name in names if options[name] not in (None, usual[name].default)]
    pairs = [word for key, value in options["ep_options"].items() for word in ("--ep-option", f"{key}={value}")]
    return [word for name in changed for word in (usual[name].flag, options[name])] + pairs


def _text(result: ProfileResult, model: Path, logged: Sequence[str], follow: str, seen: Sequence[str] = ()) -> str:
    lines = [
        f"{result.table}: {result.cells} cells, measured in {result.seconds:.0f} s on {result.device['cpu']}, provider "
        f"{result.device['ep']}, threads: {result.device['threads']}",
        _takes(result, model, seen),
        *(note for note in result.notes if note not in logged),
    ]
    if result.validation is not None:
        v = result.validation
        lines.append(
            f"validation on {v.n} other widths: predictions are off by {render.percent(v.mape)} on average, by at most "
            f"{render.percent(v.p95)} for 95% of them, by {render.percent(v.max)} for the worst; timings of one model "
            f"differ by {render.percent(v.repeatability)}; rank correlation {v.kendall:.3f}; "
            f"{render.percent(v.covered)} are within the error that the table expects"
        )
        kinds = (f"{kind} {render.percent(e.mape)} (worst {render.percent(e.max)})" for kind, e in v.kinds.items())
        lines.append(f"by kind of width: {', '.join(kinds)}")
    lines[1:1] = _circumstances(result)
    for title, parts in (("layer", result.layers), ("group", result.groups)):
        if parts:
            rows = [
                [p.name or "(no group)", render.milliseconds(p.latency_ms), f"{p.share:.1%}", f"{p.cumulated:.1%}"]
                for p in parts
            ]
            lines.append("\n" + render.table(rows, [title, "latency", "share", "cumulated"]) + "\n")
    lines.append(follow)
    return "\n".join(lines)
