"""`netadapt-onnx profile`: a latency table of this machine, or of a device that it reaches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.api.options import ProfileOptions
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._help import SectionedCommand
from netadapt_onnx.commands._options import MODEL, common, data_options, needed, seconds, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.common.escape import escape, shell_command
from netadapt_onnx.common.options import DEVICES

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
    """Time random-width versions of MODEL on a device and write a table that predicts the latency of any width.

    For a device that this machine cannot reach: `profile bundle --help` and `profile import --help`.

    \b
    Examples:  netadapt-onnx profile model.onnx --table cpu.jsonl --validate 10
               netadapt-onnx profile model.onnx --table cpu.jsonl --per-layer
               netadapt-onnx profile model.onnx --table pi.jsonl --device ssh://pi@raspberrypi
    """
    logged: list[str] = []
    with render.progress_bar("profiling") as shown:
        from netadapt_onnx.api.profile import profile

        def log(line: str) -> None:
            logged.append(escape(line))
            if shown is not None:
                shown(line)

        result = profile(model, table, data=data, log=None if shown is None else log, **keywords_of(options))
    seen = seen_as(options["shapes"], options["batch_size"])
    return CommandResult(result, lambda shown: _text(shown, model, logged, seen))


def _circumstances(result: ProfileResult) -> list[str]:
    """How many versions were measured how well, and on how steady a device."""
    rest = result.versions - result.precise
    text = f"{result.versions} versions measured ({result.stopped}), {result.precise} of them until 1% precise"
    if rest:
        text += f", {rest} until their rounds or their share of the time were used up"
    lines = [text]
    if result.drift > DRIFT and not result.disturbance.busy:
        lines.append(f"the device changed its speed by {result.drift:.0%} meanwhile; an idle one measures better")
    return lines


def _takes(result: ProfileResult, model: Path, seen: Sequence[str]) -> str:
    """What the model takes: the file as given, and what the table is of, where these are two things."""
    normalised, own = _timed(result.latency_ms), result.as_given
    if own is None:
        return f"the model takes {normalised}"
    name, again = (
        escape(model.name),
        shell_command(["netadapt-onnx", "prune", model.name, "--ratio", 0, "-o", "OUT.onnx", *seen]),
    )
    return (
        f"{name} as given takes {_timed(own.latency_ms)}, normalised, as the table has it, {normalised}: in turn "
        f"{own.normalised_ratio:.3f}x; `{again}` writes it normalised"
    )


def _timed(latency: Latency) -> str:
    return f"{render.milliseconds(latency.median)} (95%: {latency.ci95[0]:.3g} to {latency.ci95[1]:.3g} ms)"


def _text(result: ProfileResult, model: Path, logged: Sequence[str], seen: Sequence[str] = ()) -> str:
    lines = [
        f"{result.table}: {result.cells} cells in {result.seconds:.0f} s on {result.device['cpu']}, "
        f"{result.device['ep']}, threads: {result.device['threads']}",
        _takes(result, model, seen),
        *(note for note in result.notes if note not in logged),
    ]
    if result.validation is not None:
        v = result.validation
        lines.append(
            f"{v.n} unseen widths predicted within {render.percent(v.mape)} on average, 95% of them within "
            f"{render.percent(v.p95)}, the worst {render.percent(v.max)}; fresh sessions of one model differ by "
            f"{render.percent(v.repeatability)}; rank correlation {v.kendall:.3f}; "
            f"{render.percent(v.covered)} are within the error that the table expects"
        )
        kinds = (f"{kind} {render.percent(e.mape)} (worst {render.percent(e.max)})" for kind, e in v.kinds.items())
        lines.append(f"by kind of version: {', '.join(kinds)}")
    lines[1:1] = _circumstances(result)
    for title, parts in (("layer", result.layers), ("group", result.groups)):
        if parts:
            rows = [
                [p.name or "(no group)", render.milliseconds(p.latency_ms), f"{p.share:.1%}", f"{p.cumulated:.1%}"]
                for p in parts
            ]
            lines.append("\n" + render.table(rows, [title, "latency", "share", "cumulated"]) + "\n")
    options = ("--data", "DATA.npz", "--budget", "latency=0.7x", "--table", result.table, "-o", "run")
    lines.append(render.next_command("adapt", model, *options, *seen))
    return "\n".join(lines)
