"""`netadapt-onnx finetune`: train a model as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.commands._options import DATA, MODEL, OVERWRITE, SEED, SHAPE, common, seen_as
from netadapt_onnx.commands._result import CommandResult

if TYPE_CHECKING:
    from netadapt_onnx.api.finetune import FinetuneResult
    from netadapt_onnx.data.source import DataSource


def _rate(_: click.Context, __: click.Parameter, given: str) -> float | str:
    if given == "auto":
        return "auto"
    try:
        rate = float(given)
    except ValueError:
        rate = -1.0
    if not 0 < rate < float("inf"):
        raise click.BadParameter(f"'{given}' is neither auto nor a number above zero")
    return rate


@click.command("finetune", short_help="Train a model as it is, such as one that prune made.")
@MODEL
@DATA
@click.option("-o", "output", type=click.Path(path_type=Path), required=True, help="Write the trained model here.")
@click.option("--teacher", type=click.Path(path_type=Path), help="Learn from this model's outputs; needs no labels.")
@click.option("--epochs", type=click.IntRange(min=1), default=6, show_default=True, help="Passes over the data.")
@click.option(
    "--lr",
    default="auto",
    show_default=True,
    metavar="auto|X",
    callback=_rate,
    help="Learning rate; auto tests a range.",
)
@click.option("--from-scratch", is_flag=True, help="Draw all weights anew, by kind of layer, and train from there.")
@click.option(
    "--optimizer", type=click.Choice(["sgd", "adamw"]), default="sgd", show_default=True, help="SGD is Nesterov's."
)
@click.option(
    "--schedule",
    type=click.Choice(["one-cycle", "cosine"]),
    default="one-cycle",
    show_default=True,
    help="How the learning rate moves.",
)
@click.option(
    "--weight-decay", type=float, metavar="X", help="Of weights, not of norms and biases [5e-4, adamw: 0.05]."
)
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Samples per step [128, or what fits].")
@click.option("--augment", is_flag=True, help="Shift and mirror images at random.")
@click.option("--tensorboard", type=click.Path(path_type=Path), metavar="DIR", help="Log there for TensorBoard too.")
@click.option("--resume", is_flag=True, help="Go on with a training that was killed.")
@SEED
@OVERWRITE
@SHAPE
@common
def command(
    model: Path,
    data: DataSource,
    output: Path,
    teacher: Path | None,
    epochs: int,
    overwrite: bool,
    **options: Any,
) -> CommandResult:
    """Train MODEL on the training split of the data; only its weights change.

    \b
    Example:  netadapt-onnx finetune small.onnx --teacher model.onnx --data data.npz -o tuned.onnx
    """
    from netadapt_onnx.common import render

    with render.progress_bar("training") as log:
        from netadapt_onnx.api.finetune import finetune

        result = finetune(
            model,
            data,
            output,
            teacher=teacher,
            epochs=epochs,
            overwrite=overwrite,
            log=log,
            **options,
        )
    return CommandResult(result, lambda shown: _text(shown, model, data, seen_as(options["shapes"])))


def _text(result: FinetuneResult, model: Path, data: DataSource, shapes: list[str]) -> str:
    from netadapt_onnx.common import render

    found = result.accuracy
    before, after = (render.score(found.metric, value) for value in (found.before, found.after))
    how = f"learning rate {result.lr:.3g}"
    if result.lr_test is not None:
        how += f" (range test of {len(result.lr_test['rates'])} steps)"
    return (
        f"{found.metric} ({found.split}): {before} before, {after} after "
        f"{result.seconds:.0f} s of training, {how}\n"
        + "".join(f"{note}\n" for note in result.notes)
        + f"wrote {result.model}, each epoch in {result.log}\n"
        + render.next_command("evaluate", model, result.model, *data.flags, *shapes)
    )
