"""`netadapt-onnx prune`: one cut without any search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from netadapt_onnx.api.options import PruneOptions
from netadapt_onnx.commands._declared import by_name, declared, keywords_of
from netadapt_onnx.commands._next import again, unused_path
from netadapt_onnx.commands._options import MODEL, chosen, common, data_options, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render

if TYPE_CHECKING:
    from netadapt_onnx.api.prune import PruneResult
    from netadapt_onnx.data.source import DataSource
    from netadapt_onnx.surgery.verify.prove import Verification


def _group_and_amount(text: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")
    if not equals:
        raise click.BadParameter(f"'{text}' is not GROUP=N or GROUP=0.5x")
    return name, value


@click.command("prune")
@MODEL
@click.option(
    "-o", "output", type=click.Path(path_type=Path), help="Write the pruned model to this file; without it, only check."
)
@data_options(required=False, use="Training samples for --reconstruct and for the criteria that need them")
@declared(PruneOptions, {"keep": {"callback": by_name(_group_and_amount)}})
@chosen
@common
def command(
    model: Path,
    output: Path | None,
    data: DataSource | None,
    attention: Literal["heads", "dims"],
    resize_io: tuple[str, ...],
    **options: Any,
) -> CommandResult:
    """Remove the least important channels of MODEL, with everything in the graph that is coupled to them.

    \b
    Examples:  netadapt-onnx prune model.onnx --ratio 0.5 --verify
               netadapt-onnx prune model.onnx --ratio 0 --verify -o normalised.onnx
               netadapt-onnx prune model.onnx --budget macs=0.5x -o small.onnx
               netadapt-onnx prune model.onnx --ratio 0.5 --global --criterion fisher --data data.npz -o small.onnx
               netadapt-onnx prune model.onnx --plan small.plan.toml -o again.onnx
    """
    from netadapt_onnx.api.prune import prune
    from netadapt_onnx.surgery.labels import Choices

    with render.spinner("pruning"):
        choices = Choices(attention, resize_io)
        result = prune(model, output, data=data, choices=choices, **keywords_of(options))
    proven = result.verify is None or result.verify.exact
    follow = _follow(result, model, output, data, has_cut_states=bool(resize_io), options=options)
    warnings = (f"the cut is {result.warning}",) if result.warning else ()
    return CommandResult(
        result, lambda shown: _text(shown, proven, follow), ok=result.met and proven, warnings=warnings
    )


def _follow(
    result: PruneResult,
    model: Path,
    output: Path | None,
    data: DataSource | None,
    *,
    has_cut_states: bool,
    options: Mapping[str, Any],
) -> str:
    """What to run next: write the model, train it where there are data, or else see what was gained."""
    from netadapt_onnx.api.prune import UntrainableResult

    if output is None:
        return f"next: {again('-o', unused_path(Path('pruned.onnx')))}"
    if isinstance(result, UntrainableResult):
        return ""
    if data is not None:
        # States that were cut have other sizes than the original's, which then cannot teach them.
        teacher = () if has_cut_states else ("--teacher", model)
        words = [output, *teacher, *data.flags, "-o", unused_path(Path("tuned.onnx"))]
        return render.next_command("finetune", *words, *seen_as(options["shapes"]))
    return render.next_command("diff", model, output, *seen_as(options["shapes"], options["batch_size"]))


def _text(result: PruneResult, proven: bool, follow: str) -> str:
    parts = [
        render.table(
            [[name, *counts] for name, counts in result.groups.items()], ["group", "channels before", "after"]
        ),
        render.table(render.cost_rows(result.before, result.after), ["", "before", "after", "left"]),
    ]
    if result.verify is not None:
        parts.append(_proof(result.verify, proven))
    if result.note:
        parts.append(result.note)
    if result.model is not None:
        parts.append(f"wrote {result.model}\n{follow}".rstrip())
    elif proven:
        parts.append(f"Nothing was written: -o FILE writes the pruned model.\n{follow}")
    return "\n\n".join(parts)


def _proof(proof: Verification, proven: bool) -> str:
    if not proven:
        worst = f"up to {proof.max_rel_diff:.2g}, first in tensor '{proof.first_bad_tensor}'"
        return f"NOT VERIFIED: the pruned model differs from the masked original by {worst}; nothing was written"
    text = (
        "verified: the outputs equal those of the original with these channels set to zero, "
        f"largest relative difference {proof.max_rel_diff:.2g}"
    )
    for output, speaking in proof.outputs.items():
        if speaking and speaking != (output,):
            text += (
                f"\noutput '{output}' hardly depends on the inputs; compared in front of it at {', '.join(speaking)}"
            )
        elif not speaking:
            text += f"\nnothing in front of output '{output}' depends on the inputs, so that little is proven there"
    if proof.inexact_groups:
        text += f"; no reference could be built for {', '.join(proof.inexact_groups)}"
    return text
