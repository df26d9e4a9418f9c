"""Options that several commands share, spelled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from netadapt_onnx.data.source import DataSource

# Where the context of a command keeps which of -v and -q was given last.
VERBOSITY = "netadapt_onnx.verbosity"
Command = TypeVar("Command", bound=Callable[..., Any])
Value = TypeVar("Value")

MODEL = click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
SEED = click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**63 - 1),
    help="Seed of everything random; recorded.",
)
THREADS = click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads timed with."
)
EP = click.option(
    "--ep",
    default="cpu",
    show_default=True,
    help="Execution provider of onnxruntime: cpu, cuda, tensorrt, openvino, xnnpack, coreml, nnapi, qnn, directml, "
    "webgpu, or what --ep-library brings.",
)
EP_LIBRARY = click.option(
    "--ep-library", type=click.Path(), metavar="FILE", help="The library of an execution provider that is a plugin."
)
DEVICE = click.option(
    "--device",
    default="local",
    show_default=True,
    metavar="DEVICE",
    help="Where to measure: local, ssh://[user@]host[:port] or adb://SERIAL.",
)
PYTHON = click.option("--python", default="python3", show_default=True, metavar="PATH", help="Python on the device.")
PERF_TEST = click.option(
    "--perf-test",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="onnxruntime_perf_test built for a device without Python.",
)
FORCE = click.option("--force", is_flag=True, help="Take a table that was measured on another device.")
KEEP = click.option("--keep", is_flag=True, help="Leave the files on the device.")
CRITERION = click.option(
    "--criterion",
    default="l2",
    show_default=True,
    help="Which channels stay: l2, l1, group-l2, fpgm, bn-scale, random or first; by data: taylor, fisher, activation.",
)


def _shapes(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    if not given:
        return {}
    from netadapt_onnx.graph.inputs import parse_shape

    return once_each(parse_shape(text) for text in given)


def once_each(pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """The values by name of an option that may be repeated. Raises BadParameter for a name given twice."""
    found: dict[str, Value] = {}
    for name, value in pairs:
        if name in found:
            raise click.BadParameter(f"'{name}' is given twice")
        found[name] = value
    return found


def _options(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    for text in given:
        if "=" not in text:
            raise click.BadParameter(f"'{text}' is not KEY=VALUE")
    return once_each((key, value) for key, _, value in (text.partition("=") for text in given))


EP_OPTION = click.option(
    "--ep-option",
    "ep_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_options,
    help="An option of the execution provider; may be repeated.",
)
DEPLOY = click.option(
    "--deploy",
    type=click.Choice(["float", "int8"]),
    default="float",
    show_default=True,
    help="What will run there: the model, or its int8 form, calibrated with --data.",
)

SHAPE = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1x3x224x224",
    callback=_shapes,
    help="Shape of an input with other dynamic axes, or of what an unknown operator puts out; may be repeated.",
)
BATCH_SIZE = click.option(
    "--batch-size", default=1, show_default=True, type=click.IntRange(min=1), help="Length of a dynamic first axis."
)

ATTENTION = click.option(
    "--attention",
    default="heads",
    show_default=True,
    type=click.Choice(["heads", "dims"]),
    help="What goes of attention: whole heads, or the same dimensions of every head.",
)
RESIZE_IO = click.option(
    "--resize-io",
    multiple=True,
    metavar="NAME",
    help="Let this graph input or output (a state, a cache) change its shape; may be repeated.",
)


_SAID = "netadapt_onnx.data"


def _said(context: click.Context, parameter: click.Parameter, given: str | None) -> None:
    """Keep what is said of the data until `--data` itself is read."""
    if given is None:
        return
    from netadapt_onnx.data.source import parse_numbers, parse_size

    name = str(parameter.name)
    parse = {"resize": parse_size, "crop": parse_size, "mean": parse_numbers, "std": parse_numbers}.get(name)
    try:
        value = given if parse is None else parse(given)
    except ValueError:
        how = "one number or HEIGHTxWIDTH" if name in ("resize", "crop") else "numbers such as 0.5 or 0.49,0.48,0.45"
        raise click.BadParameter(f"'{given}' is not {how}") from None
    context.meta.setdefault(_SAID, {})[name] = value


def _source(context: click.Context, _: click.Parameter, given: str | None) -> DataSource | None:
    said = context.meta.pop(_SAID, {})
    if given is None:
        if said:
            raise click.UsageError(f"--{next(iter(said))} says how --data is read, which is missing")
        return None
    from netadapt_onnx.data.source import DataSource

    return DataSource(given, **said)


def data_options(*, required: bool = True, use: str = "Samples") -> Callable[[Command], Command]:
    """`--data` and what says how it is read; the command gets them as one `DataSource`."""
    options = [
        click.option(
            "--data",
            required=required,
            metavar="DATA",
            callback=_source,
            help=f"{use}: an .npz of x_train, y_train, x_val, ..., a folder of pictures by class, of CIFAR or MNIST "
            "files, or FILE.py:FUNCTION; labels are optional.",
        ),
        click.option(
            "--task",
            type=click.Choice(["classification", "regression", "segmentation", "distillation"]),
            help="What labels mean, where they leave a choice; distillation trains without them.",
            **_EARLY,
        ),
        click.option("--resize", metavar="N|HxW", help="Pictures: the shorter side, or height and width.", **_EARLY),
        click.option("--crop", metavar="N|HxW", help="Pictures: then their middle.", **_EARLY),
        click.option("--mean", metavar="X[,X,X]", help="Bytes become (x / 255 - mean) / std, per channel.", **_EARLY),
        click.option("--std", metavar="X[,X,X]", help="See --mean.", **_EARLY),
    ]

    def decorate(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_EARLY: dict[str, Any] = {"is_eager": True, "expose_value": False, "callback": _said}
DATA = data_options()


def chosen(function: Command) -> Command:
    """`--attention` and `--resize-io`: surgery's choices."""
    return ATTENTION(RESIZE_IO(function))


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


def _verbosity(context: click.Context, option: click.Parameter, given: bool) -> None:
    if given:
        context.meta[VERBOSITY] = option.name


def common(function: Command) -> Command:
    """`-v`, `-q`, `--json`, `--debug`: read by the frame (`cli.py`) and the renderer, in every command's help."""
    flag: dict[str, Any] = {"is_flag": True, "expose_value": False}
    function = click.option("--debug", **flag, help="Show tracebacks and warnings.")(function)
    quiet = "No progress, and not what to run next."
    function = click.option("-q", "--quiet", **flag, callback=_verbosity, help=quiet)(function)
    verbose = "Say what happens on stderr, also where it is no terminal."
    function = click.option("-v", "--verbose", **flag, callback=_verbosity, help=verbose)(function)
    return click.option("--json", **flag, help="One JSON document on stdout.")(function)


def shaped(function: Command) -> Command:
    """`--shape` and `--batch-size`: what the file leaves open."""
    return SHAPE(BATCH_SIZE(function))


def _seconds(_: click.Context, __: click.Parameter, given: str) -> float:
    from netadapt_onnx.common.amounts import parse_seconds

    found = parse_seconds(given)
    if found is None:
        raise click.BadParameter(f"'{given}' is not a duration such as 60s or 2m")
    return found


def _bytes(_: click.Context, __: click.Parameter, given: str) -> int:
    from netadapt_onnx.common.amounts import parse_amount

    found = parse_amount("memory", given)
    if found is None or found[1] or found[0] < 1e6:
        raise click.BadParameter(f"'{given}' is not an amount of memory such as 4GB")
    return int(found[0])


TIMEOUT = click.option(
    "--timeout", default="60s", show_default=True, callback=_seconds, help="What reading or timing one model may take."
)
MEMORY_LIMIT = click.option(
    "--memory-limit", default="4GB", show_default=True, callback=_bytes, help="What reading one model may take."
)
