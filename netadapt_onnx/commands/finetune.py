"""`netadapt-onnx finetune`: train a model as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.api.options import FinetuneOptions
from netadapt_onnx.commands._declared import declared, keywords_of
from netadapt_onnx.commands._help import SectionedCommand
from netadapt_onnx.commands._next import again, interruptible
from netadapt_onnx.commands._options import DATA, MODEL, common, needed, seen_as
from netadapt_onnx.commands._result import CommandResult
from netadapt_onnx.common import render
from netadapt_onnx.reporting.table_rows import scores

if TYPE_CHECKING:
    from netadapt_onnx.api.finetune import FinetuneResult
    from netadapt_onnx.data.source import DataSource


def _rate(_: click.Context, __: click.Parameter, text: str | None) -> float | str | None:
    if text is None or text == "auto":
        return text
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 < rate < float("inf"):
        raise click.BadParameter(f"'{text}' is neither auto nor a number above zero")
    return rate


@click.command("finetune", cls=SectionedCommand)
@MODEL
@DATA
@needed("-o", "output", type=click.Path(path_type=Path), required=True, help="Write the trained model to this file.")
@declared(FinetuneOptions, {"lr": {"callback": _rate}})
@common
def command(model: Path, data: DataSource, output: Path, **options: Any) -> CommandResult:
    """Train MODEL on the training samples of the data. Only its weights change, not its layers.

    \b
    Example:  netadapt-onnx finetune small.onnx --teacher model.onnx --data data.npz -o tuned.onnx
    """
    with interruptible(lambda: _kept(output)), render.progress_bar("training") as log:
        from netadapt_onnx.api.finetune import finetune
        from netadapt_onnx.common.memory import share_heap

        share_heap()
        result = finetune(model, data, output, log=log, **keywords_of(options))
    return CommandResult(result, lambda shown: _text(shown, model, data, seen_as(options["shapes"])))


def _kept(output: Path) -> str:
    """What an interrupted training leaves, and how to go on with it."""
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    if not checkpoint.exists():
        return "nothing was kept, because no epoch was complete; run the command again"
    return f"the training so far is kept in {checkpoint}; go on with `{again('--resume')}`"


def _text(result: FinetuneResult, model: Path, data: DataSource, shapes: list[str]) -> str:
    accuracy = result.accuracy
    before, after = scores(accuracy)
    how = f"learning rate {result.lr:.3g}"
    if result.lr_test is not None:
        how += f" (range test of {len(result.lr_test['rates'])} steps)"
    return (
        f"{accuracy.metric} ({accuracy.split}): {before} before, {after} after "
        f"{result.seconds:.0f} s of training, {how}\n"
        + "".join(f"{note}\n" for note in result.notes)
        + f"wrote {result.model}, and a line for each epoch to {result.log}\n"
        + render.next_command("evaluate", model, result.model, *data.flags, *shapes)
    )
