"""`netadapt-onnx profile`: a latency table of this machine, or of a device that it reaches."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.commands.answer import Answer
from netadapt_onnx.commands.options import (
    DEPLOY,
    DEVICE,
    EP,
    EP_LIBRARY,
    EP_OPTION,
    KEEP,
    MODEL,
    PERF_TEST,
    PYTHON,
    SEED,
    THREADS,
    common,
    data_options,
    shaped,
)

if TYPE_CHECKING:
    from netadapt_onnx.profilers.deployment import Precision
    from netadapt_onnx.profiling import ProfileResult
    from netadapt_onnx.training.given import DataSource


# A device that changes its speed more than this is not idle, or too hot.
DRIFT = 0.15


def _seconds(_: click.Context, __: click.Parameter, given: str) -> float:
    from netadapt_onnx.amounts import parse_seconds

    found = parse_seconds(given)
    if found is None:
        raise click.BadParameter(f"'{given}' is no time such as 90s or 2m")
    return found


class Profile(click.Command):
    """`profile`, and what stands beside it: `profile bundle` and `profile import`."""

    @property
    def beside(self) -> dict[str, click.Command]:
        """Those commands by their last words."""
        return {n: importlib.import_module(f"netadapt_onnx.commands.profile_{n}").command for n in ("bundle", "import")}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """That of the command which the first word names."""
        if args and args[0] in ("bundle", "import"):
            return self.beside[args[0]].make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("profile", cls=Profile, short_help="Measure a device: build a latency table for a model.")
@MODEL
@click.option("--table", type=click.Path(path_type=Path), required=True, help="The table; an unfinished one goes on.")
@DEVICE
@EP
@EP_OPTION
@EP_LIBRARY
@THREADS
@DEPLOY
@data_options(required=False, use="Inputs to calibrate --deploy int8 with")
@PYTHON
@PERF_TEST
@KEEP
@click.option(
    "--validate",
    "held_out",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Then time N other widths and compare with the prediction.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE.svg|png", help="Draw predicted against measured times."
)
@click.option("--per-layer", is_flag=True, help="Show where the time goes, by layer and by group.")
@click.option(
    "--max-time",
    "time_cap_s",
    default="100s",
    show_default=True,
    metavar="TIME",
    callback=_seconds,
    help="Stop building after this long, with what was measured; if that is too little for a table, after three times "
    "as long, or a minute.",
)
@SEED
@click.option("--overwrite", is_flag=True, help="Measure anew even if the table exists.")
@shaped
@common
def command(
    model: Path,
    table: Path,
    device: str,
    ep: str,
    ep_options: dict[str, str],
    ep_library: str | None,
    threads: int,
    deploy: Precision,
    data: DataSource | None,
    python: str,
    perf_test: Path | None,
    keep: bool,
    held_out: int,
    plot: Path | None,
    per_layer: bool,
    time_cap_s: float,
    seed: int,
    overwrite: bool,
    shapes: dict[str, tuple[int, ...]],
    batch_size: int,
) -> Answer:
    """Time random-width versions of MODEL on a device and write a table that predicts the latency of any width.

    For a device that this machine cannot reach: `profile bundle --help` and `profile import --help`.

    \b
    Examples:  netadapt-onnx profile model.onnx --table cpu.jsonl --validate 10
               netadapt-onnx profile model.onnx --table cpu.jsonl --per-layer
               netadapt-onnx profile model.onnx --table pi.jsonl --device ssh://pi@raspberrypi
    """
    from netadapt_onnx import render
    from netadapt_onnx.profiling import profile

    heard: list[str] = []
    with render.followed("profiling") as seen:

        def log(line: str) -> None:
            heard.append(line)
            if seen.log:
                seen.log(line)

        result = profile(
            model,
            table,
            device=device,
            ep=ep,
            ep_options=ep_options,
            ep_library=ep_library,
            threads=threads,
            deploy=deploy,
            data=data,
            python=python,
            perf_test=perf_test,
            keep=keep,
            held_out=held_out,
            plot=plot,
            per_layer=per_layer,
            time_cap_s=time_cap_s,
            seed=seed,
            shapes=shapes,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=seen.progress,
            log=log if seen.log else None,
        )
    return Answer(result, lambda: _text(result, model, said=bool(heard)))


def _circumstances(result: ProfileResult, said: bool) -> list[str]:
    """How many versions were measured how well, and on how steady a device; not what was said while it measured."""
    rest = result.versions - result.precise
    told = f"{result.versions} versions measured ({result.stopped}), {result.precise} of them until 1% precise"
    if rest:
        told += f", {rest} until their rounds or their share of the time were used up"
    lines = [told]
    if result.notes:
        lines += [] if said else result.notes
    elif result.drift > DRIFT:
        lines.append(f"the device changed its speed by {result.drift:.0%} meanwhile; an idle one measures better")
    return lines


def _text(result: ProfileResult, model: Path, *, said: bool) -> str:
    from netadapt_onnx import render

    low, high = result.latency_ms.ci95
    lines = [
        f"{result.table}: {result.cells} cells in {result.seconds:.0f} s on {result.device['cpu']}, "
        f"{result.device['ep']}, threads: {result.device['threads']}",
        f"the model takes {render.milliseconds(result.latency_ms.median)} (95%: {low:.3g} to {high:.3g} ms)",
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
    lines[1:1] = _circumstances(result, said)
    for title, parts in (("layer", result.layers), ("group", result.groups)):
        if parts:
            rows = [
                [p.name or "(no group)", render.milliseconds(p.latency_ms), f"{p.share:.1%}", f"{p.cumulated:.1%}"]
                for p in parts
            ]
            lines.append("\n" + render.table(rows, [title, "latency", "share", "cumulated"]) + "\n")
    options = ("--data", "DATA.npz", "--budget", "latency=0.7x", "--table", result.table, "-o", "run")
    lines.append(render.next_command("adapt", model, *options))
    return "\n".join(lines)
