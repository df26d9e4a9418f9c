"""Options that several commands share, spelled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netadapt_onnx.api.options import GateOptions
from netadapt_onnx.commands._declared import Command, click_option, decorated
from netadapt_onnx.commands._help import SectionedOption
from netadapt_onnx.common.amounts import parse_amount, parse_seconds
from netadapt_onnx.common.options import DATA as READING
from netadapt_onnx.common.options import NEEDED, OUTPUT, RUNNING, SharedOptions, declared_options

if TYPE_CHECKING:
    from netadapt_onnx.data.source import DataSource

# Where the context of a command keeps which of -v and -q was given last.
VERBOSITY = "netadapt_onnx.verbosity"

# Where the context of a command keeps the model that it was given.
GIVEN_MODEL = "netadapt_onnx.model"


def _keep_model(context: click.Context, _: click.Parameter, model: Path | None) -> Path | None:
    context.meta[GIVEN_MODEL] = model
    return model


MODEL = click.argument("model", type=click.Path(path_type=Path), metavar="MODEL", callback=_keep_model)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace existing outputs.")


def needed(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option of a command's own that help shows among what the command needs."""
    return click.option(*names, cls=SectionedOption, section=NEEDED, **attributes)


def of_run(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option of a command's own on how it runs."""
    return click.option(*names, cls=SectionedOption, section=RUNNING, **attributes)


SHAPE = click_option(declared_options(SharedOptions)["shapes"])
# What the file leaves open.
shaped = decorated(SHAPE, click_option(declared_options(SharedOptions)["batch_size"], type=click.IntRange(min=1)))
# Surgery's choices.
chosen = decorated(
    click.option(
        "--attention",
        default="heads",
        show_default=True,
        type=click.Choice(["heads", "dims"]),
        help="What is removed from attention: whole heads, or the same dimensions of every head.",
    ),
    click.option(
        "--resize-io",
        multiple=True,
        metavar="NAME",
        help="Let this graph input or output (a state, a cache) change its shape; may be repeated.",
    ),
)


_READING = "netadapt_onnx.data"


def _keep_reading(context: click.Context, parameter: click.Parameter, text: str | None) -> None:
    """Keep how the data are read until `--data` itself comes."""
    if text is None:
        return
    from netadapt_onnx.data.source import parse_numbers, parse_size

    name = str(parameter.name)
    parse = {"resize": parse_size, "crop": parse_size, "mean": parse_numbers, "std": parse_numbers}.get(name)
    try:
        value = text if parse is None else parse(text)
    except ValueError:
        how = "one number or HEIGHTxWIDTH" if name in ("resize", "crop") else "numbers such as 0.5 or 0.49,0.48,0.45"
        raise click.BadParameter(f"'{text}' is not {how}") from None
    context.meta.setdefault(_READING, {})[name] = value


def _source(context: click.Context, _: click.Parameter, text: str | None) -> DataSource | None:
    reading = context.meta.pop(_READING, {})
    if text is None:
        if reading:
            raise click.UsageError(f"--{next(iter(reading))} says how --data is read, which is missing")
        return None
    from netadapt_onnx.data.source import DataSource

    return DataSource(text, **reading)


def data_options(*, required: bool = True, use: str = "Samples", section: str = NEEDED) -> Callable[[Command], Command]:
    """`--data` and what says how it is read; the command gets them as one `DataSource`."""
    return decorated(
        click.option(
            "--data",
            required=required,
            metavar="DATA",
            callback=_source,
            cls=SectionedOption,
            section=section,
            help=f"{use}: an .npz with x_train, y_train, x_val, ..., a folder of pictures, with a subfolder for each "
            "class if they have labels, a folder of CIFAR or MNIST files, or FILE.py:FUNCTION. Labels are optional.",
        ),
        click.option(
            "--task",
            type=click.Choice(["classification", "regression", "segmentation", "distillation"]),
            help="What the labels mean, where that is not clear from them; distillation ignores them.",
            **_EARLY,
        ),
        click.option(
            "--resize", metavar="N|HxW", help="Resize pictures: their shorter side, or height and width.", **_EARLY
        ),
        click.option("--crop", metavar="N|HxW", help="Crop the middle of the resized pictures.", **_EARLY),
        click.option(
            "--mean", metavar="X[,X,X]", help="Normalise bytes to (x / 255 - mean) / std, per channel.", **_EARLY
        ),
        click.option("--std", metavar="X[,X,X]", help="See --mean.", **_EARLY),
    )


_EARLY: dict[str, Any] = {
    "is_eager": True,
    "expose_value": False,
    "callback": _keep_reading,
    "cls": SectionedOption,
    "section": READING,
    "is_advanced": True,
}
DATA = data_options()


def seen_as(
    shapes: Mapping[str, tuple[int, ...]],
    batch_size: int | None = 1,
    attention: str = "heads",
    resize_io: Iterable[str] = (),
) -> list[str]:
    """The words of a command line by which another command sees the model as this one does."""
    words = [word for name, dims in shapes.items() for word in ("--shape", f"{name}={'x'.join(map(str, dims))}")]
    words += ["--batch-size", str(batch_size)] if batch_size not in (None, 1) else []
    words += ["--attention", attention] if attention != "heads" else []
    return words + [word for name in resize_io for word in ("--resize-io", name)]


def _verbosity(context: click.Context, option: click.Parameter, is_set: bool) -> None:
    if is_set:
        context.meta[VERBOSITY] = option.name


_FLAG: dict[str, Any] = {"is_flag": True, "expose_value": False, "cls": SectionedOption, "section": OUTPUT}
_VERBOSE = "Log what happens to stderr, even if that is not a terminal."
# Read by the frame (`cli.py`) and the renderer, in every command's help.
common = decorated(
    click.option("--json", **_FLAG, help="Print the result as one JSON document."),
    click.option("-v", "--verbose", **_FLAG, callback=_verbosity, help=_VERBOSE),
    click.option("-q", "--quiet", **_FLAG, callback=_verbosity, help="Show neither progress nor what to run next."),
    click.option("--debug", **_FLAG, help="Show tracebacks and the warnings of libraries."),
)


def seconds(_: click.Context, __: click.Parameter, text: str) -> float:
    """How click reads a duration."""
    amount = parse_seconds(text)
    if amount is None:
        raise click.BadParameter(f"'{text}' is not a duration such as 60s or 2m")
    return amount


def _bytes(_: click.Context, __: click.Parameter, text: str) -> int:
    amount = parse_amount("memory", text)
    if amount is None or amount[1] or amount[0] < 1e6:
        raise click.BadParameter(f"'{text}' is not an amount of memory such as 4GB")
    return int(amount[0])


# What reading or timing one model may take, as texts.
SANDBOX: Mapping[str, Mapping[str, Any]] = {
    "timeout_s": {"type": click.STRING, "default": "60s", "callback": seconds},
    "memory_bytes": {"type": click.STRING, "default": "4GB", "callback": _bytes},
}
TIMEOUT = click_option(declared_options(GateOptions)["timeout_s"], **SANDBOX["timeout_s"])
MEMORY_LIMIT = click_option(declared_options(GateOptions)["memory_bytes"], **SANDBOX["memory_bytes"])
