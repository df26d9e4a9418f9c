"""`netadapt-onnx inspect`: what a model costs and which of its channels can go."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from netadapt_onnx.api.options import InspectOptions
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._options import MODEL, chosen, common, data_options, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import charts, render
from netadapt_onnx.common.escape import escape
from netadapt_onnx.errors import NetadaptError

if TYPE_CHECKING:
    from netadapt_onnx.api.inspect import Inspection, Sensitive
    from netadapt_onnx.data.source import DataSource
    from netadapt_onnx.graph.file_description import FileDescription
    from netadapt_onnx.search.sensitivity import Sensitivities, Sensitivity
    from netadapt_onnx.surgery.explain import Explanation
    from netadapt_onnx.surgery.groups import Group


# Longer tables are cut unless --all is given.
ROWS = 20


@click.command("inspect")
@MODEL
@data_options(required=False, use="What --sensitivity judges by")
@declared(InspectOptions)
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw the sensitivity.")
@click.option("--all", "show_all", is_flag=True, help="Show all rows of tables that are longer than 20.")
@chosen
@common
def command(
    model: Path,
    data: DataSource | None,
    plot: Path | None,
    show_all: bool,
    attention: Literal["heads", "dims"],
    resize_io: tuple[str, ...],
    **options: Any,
) -> CommandResult:
    """Show what MODEL is and costs, layer by layer, and its groups: the channels that are pruned as one decision.

    \b
    Examples:  netadapt-onnx inspect model.onnx
               netadapt-onnx inspect model.onnx --explain conv1
               netadapt-onnx inspect model.onnx --graph network.html
               netadapt-onnx inspect model.onnx --write-plan plan.toml
               netadapt-onnx inspect model.onnx --sensitivity --data data.npz
    """
    from netadapt_onnx.api.inspect import Sensitive, inspect
    from netadapt_onnx.surgery.labels import Choices

    if plot is not None:
        _may_plot(plot, options["sensitivity"], options["overwrite"], model)
    with render.spinner("inspecting"):
        result = inspect(model, data=data, choices=Choices(attention, resize_io), **keywords_of(options))
    if plot is not None and isinstance(result, Sensitive):
        result = _plot(result, plot)
    seen = seen_as(options["shapes"], options["batch_size"], attention, resize_io)
    drawing = options["graph"]

    def text(shown: Inspection) -> str:
        lines = _shown(shown, model, seen, None if show_all else ROWS)
        return (
            lines if drawing is None else render.with_line(lines, f"the drawing of the network is in {escape(drawing)}")
        )

    return CommandResult(result, text)


def _shown(result: Inspection, model: Path, options: list[str], limit: int | None) -> str:
    from netadapt_onnx.api.inspect import Explained, ExplainedWithNotes, Sensitive

    if isinstance(result, Explained):
        notes = result.notes if isinstance(result, ExplainedWithNotes) else ()
        return "\n\n".join([*notes, _explanation(result.explain)])
    if isinstance(result, Sensitive):
        return "\n\n".join([_sensitivity(result.sensitivity), *result.notes])
    return _text(result, model, options, limit)


def _may_plot(file: Path, sensitivity: bool, overwrite: bool, model: Path) -> None:
    from netadapt_onnx.api.source import prepare_output

    if not sensitivity:
        raise click.UsageError("--plot draws --sensitivity")
    if file.suffix != ".svg":
        raise click.UsageError(f"--plot {file}: an .svg")
    if not charts.available():
        raise NetadaptError(charts.MISSING, code="missing-package")
    prepare_output(file, overwrite, model)


def _plot(result: Sensitive, file: Path) -> Sensitive:
    """Draw accuracy over the share of channels left, a line per group; a note says why where that fails."""
    from netadapt_onnx.common.files import write_atomically

    curves = result.sensitivity
    names = list(dict.fromkeys(row.group for row in curves.groups))
    rows = [{"group": name, "channels left": 1.0, curves.metric: curves.accuracy} for name in names]
    rows += [{"group": row.group, "channels left": row.share, curves.metric: row.mended} for row in curves.groups]
    spec = charts.lines(rows, "channels left", curves.metric, series="group", title="one group cut, the others whole")
    try:
        write_atomically(file, charts.svg(spec).encode())
    except NetadaptError as error:
        return replace(result, notes=(*result.notes, error.message))
    return result


def _sensitivity(result: Sensitivities) -> str:
    """A row per group, most sensitive first."""
    by_group: dict[str, list[Sensitivity]] = {}
    for row in result.groups:
        by_group.setdefault(row.group, []).append(row)
    shares = sorted({row.share for row in result.groups}, reverse=True)

    def cell(rows: list[Sensitivity], share: float) -> str:
        return next((f"{render.score(result.metric, r.mended)} ({r.channels})" for r in rows if r.share == share), "")

    worst = sorted(by_group.items(), key=lambda item: -max(row.lost for row in item[1]))
    table = render.table(
        [[name, *(cell(rows, share) for share in shares)] for name, rows in worst],
        ["group", *(f"{share:g}x" for share in shares)],
    )
    return (
        f"{result.metric} ({result.split}, {result.samples} samples) is "
        f"{render.score(result.metric, result.accuracy)}; "
        f"with one group cut, its consumers solved anew (channels left):\n\n{table}"
    )


def _explanation(explanations: tuple[Explanation, ...]) -> str:
    parts = []
    for explanation in explanations:
        group = explanation.group
        state = "can be pruned" if group.prunable else f"cannot be pruned: {group.reason}"
        parts.append(
            f"group {group.name}: {group.channels} channels in steps of {group.step}, at least {group.floor}; {state}\n"
            f"layers: {', '.join(group.layers)}"
        )
        for title, places in (("constant", explanation.constants), ("tensor", explanation.tensors)):
            rows = [[place.tensor, place.axis, f"{place.positions} of {place.length}"] for place in places]
            parts.append(render.table(rows, [title, "axis", "positions"]))
        parts.extend(f"pinned: {reason}" for reason in explanation.pins)
        if freed := _freed_by(group):
            parts.append(f"free to go with the states it runs through: {freed}")
    return "\n\n".join(parts)


def _freed_by(group: Group) -> str:
    """The options that let a pinned group go with states, as they are typed; '' if none do."""
    from netadapt_onnx.surgery.groups import resize_io_of

    return shlex.join(word for name in resize_io_of(group) for word in ("--resize-io", name))


def _prunable(group: Group) -> str:
    return "yes" if group.prunable else "no"


def _reason(group: Group) -> str:
    freed = _freed_by(group)
    return f"{group.reason}" + (f"; unless {freed}" if freed else "")


def _next(result: Inspection, model: Path, options: list[str]) -> str:
    """How to prune it, if anything can be: the states that pin everything are let go."""
    from netadapt_onnx.api.inspect import Unprovable
    from netadapt_onnx.surgery.groups import resize_io_of

    if isinstance(result, Unprovable):  # without an output a cut is proven
        options = [*options, "-o", "pruned.onnx"]
    states = dict.fromkeys(name for group in result.groups for name in resize_io_of(group))
    if not any(group.prunable for group in result.groups):
        if not states:
            return ""
        options = [*options, *(word for name in states for word in ("--resize-io", name))]
    return "\n" + render.next_command("prune", model, "--ratio", "0.5", *options)


def _text(result: Inspection, model: Path, options: list[str], limit: int | None) -> str:
    parts = [
        render.listing(_file_rows(result.file, result.model.size_bytes, limit)),
        _totals(result),
        _layers(result, limit),
        _groups(result, limit),
    ]
    return "\n\n".join(parts) + _next(result, model, options)


def _file_rows(file: FileDescription, size_bytes: int, limit: int | None) -> list[list[str]]:
    """What the file is: what it takes and returns, which operators it is made of, and who wrote it."""
    rows = []
    for kind, tensors in (("input", file.inputs), ("output", file.outputs)):
        rows += [[kind, tensor.name, tensor.text] for tensor in tensors[:limit]]
        rest = len(tensors) - len(tensors[:limit])
        rows += [["", _more(rest, f"{kind}s"), ""]] if rest else []
    opsets = [version if domain == "ai.onnx" else f"{domain} {version}" for domain, version in file.opset.items()]
    rows.append(["opset", ", ".join(map(str, opsets)), f"IR version {file.ir_version}"])
    rows.append(["producer", file.producer or "unknown", ""])
    rows.append(["size", render.size(size_bytes), ""])
    return rows


def _totals(result: Inspection) -> str:
    from netadapt_onnx.api.inspect import Cautioned, RunsOtherwise

    rows = [row for row in render.cost_rows(result.model) if row[0] != "file size"]
    if isinstance(result, RunsOtherwise):
        rows.append(["latency, normalised", render.milliseconds(result.normalised_ms)])
    return "\n".join([render.table(rows), *(result.notes if isinstance(result, Cautioned) else ())])


def _layers(result: Inspection, limit: int | None) -> str:
    timed = result.model.latency_ms is not None
    rows = [
        [c.name, c.op, c.group or "", render.count(c.params), render.count(c.macs)]
        + [render.milliseconds(c.latency_ms) if c.latency_ms is not None else ""] * timed
        for c in result.layers
    ]
    headers = ["layer", "op", "group", "params", "macs", *["latency"] * timed]
    return _cut(rows, headers, limit, "layers", text_columns=3)


def _groups(result: Inspection, limit: int | None) -> str:
    """The groups, their paths where these are not their names, and why some of them cannot be pruned."""
    has_paths = any(result.paths[group.name] != group.name for group in result.groups)
    rows = [
        [g.name, *[result.paths[g.name]] * has_paths, g.channels, g.step, g.floor, len(g.layers), _prunable(g)]
        for g in result.groups
    ]
    headers = ["group", *["path"] * has_paths, "channels", "step", "floor", "layers", "prunable"]
    table = _cut(rows, headers, limit, "groups", text_columns=1 + has_paths)
    able = sum(group.prunable for group in result.groups)
    pinned = [f"{group.name}: {_reason(group)}" for group in result.groups if not group.prunable]
    lines = [f"{able} of {len(result.groups)} groups can be pruned{'; those that cannot:' if pinned else ''}"]
    lines += [f"  {line}" for line in pinned[:limit]]
    lines += [_more(len(pinned) - limit, "groups")] if limit is not None and len(pinned) > limit else []
    return f"{table}\n\n" + "\n".join(lines)


def _cut(rows: list[list[Any]], headers: list[str], limit: int | None, what: str, *, text_columns: int) -> str:
    """A table of at most so many rows, with a hint how to see the rest."""
    table = render.table(rows[:limit], headers, text_columns=text_columns)
    rest = 0 if limit is None else len(rows) - limit
    return f"{table}\n{_more(rest, what)}" if rest > 0 else table


def _more(count: int, what: str) -> str:
    return f"... and {count} more {what if count > 1 else what.removesuffix('s')}: --all shows them"
