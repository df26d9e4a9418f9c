"""`netadapt-onnx finetune`: train a model as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from netadapt_onnx.commands.answer import Answer
from netadapt_onnx.commands.options import DATA, MODEL, OVERWRITE, SEED, SHAPE, common

if TYPE_CHECKING:
    from netadapt_onnx.finetuning import FinetuneResult
    from netadapt_onnx.training.given import DataSource


def _rate(_: click.Context, __: click.Parameter, given: str) -> float | None:
    if given == "auto":
        return None
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
@click.option("--lr", default="auto", show_default=True, metavar="auto|X", callback=_rate, help="Learning rate.")
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
    lr: float | None,
    seed: int,
    overwrite: bool,
    shapes: dict[str, tuple[int, ...]],
) -> Answer:
    """Train MODEL on the training split of the data; only its weights change.

    \b
    Example:  netadapt-onnx finetune small.onnx --teacher model.onnx --data data.npz -o tuned.onnx
    """
    from netadapt_onnx import render
    from netadapt_onnx.finetuning import finetune

    with render.followed("training") as seen:
        result = finetune(
            model,
            data,
            output,
            teacher=teacher,
            epochs=epochs,
            lr=lr,
            seed=seed,
            shapes=shapes,
            overwrite=overwrite,
            progress=seen.progress,
        )
    return Answer(result, lambda: _text(result, model, data))


def _text(result: FinetuneResult, model: Path, data: DataSource) -> str:
    from netadapt_onnx import render

    found = result.accuracy
    return (
        f"{found.metric} ({found.split}): {render.percent(found.before)} before, {render.percent(found.after)} after "
        f"{result.seconds:.0f} s of training\nwrote {result.model}\n"
        + render.next_command("evaluate", model, result.model, *data.flags)
    )
