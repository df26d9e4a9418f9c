"""`netadapt-onnx diff`: what changed between two models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.commands._options import MEMORY_LIMIT, OVERWRITE, TIMEOUT, common, seen_as, shaped
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.common.escape import escape

if TYPE_CHECKING:
    from netadapt_onnx.gating.compare import Diff


@click.command("diff")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    help="The format of the result on stdout.",
)
@click.option(
    "--graph",
    type=click.Path(path_type=Path),
    metavar="FILE.svg|html|dot",
    help="Draw both as one network with the widths of A and of B: .svg needs Graphviz, .html nothing but a browser.",
)
@OVERWRITE
@TIMEOUT
@MEMORY_LIMIT
@shaped
@common
def command(a: str, b: str, form: str, **options: Any) -> CommandResult:
    """Show what changed from model A to model B: totals, layers, opset, inputs, outputs and metadata.

    Write git:REV for one of them to compare the other with itself as it was at that revision. Neither model is run.

    \b
    Examples:  netadapt-onnx diff before.onnx after.onnx
               netadapt-onnx diff git:main model.onnx --format markdown
               netadapt-onnx diff before.onnx after.onnx --graph widths.html
    """
    with render.spinner("comparing"):
        from netadapt_onnx.api.diff import diff

        result = diff(a, b, **options)
    seen, drawing = seen_as(options["shapes"], options["batch_size"]), options["graph"]

    def text(_: Diff) -> str:
        lines = _text(result, form, a, b, seen)
        if drawing is None or form == "markdown":
            return lines
        return render.with_line(lines, f"the drawing of both networks is in {escape(drawing)}")

    return CommandResult(result, text, is_escaped=form == "markdown")


def _text(result: Diff, form: str, a: str, b: str, seen: list[str]) -> str:
    from netadapt_onnx.gating.formats import differences

    if form == "markdown":
        return differences.markdown(result)
    if result.identical:  # there is nothing to guard
        return differences.text(result)
    model, base = (a, b) if b.startswith("git:") else (b, a)
    resource = "macs" if all(result.totals["macs"]) else "size"
    follow = render.next_command("gate", model, "--baseline", base, "--max-increase", f"{resource}=2%", *seen)
    return f"{differences.text(result)}\n\n{follow}"
