"""Options that several commands share, spelled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Value = TypeVar("Value")

MODEL = click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
DATA = click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.npz",
    help="x_train, y_train, x_val, y_val and, if you have them, x_test, y_test; labels are optional.",
)
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
EP = click.option("--ep", default="cpu", show_default=True, help="Execution provider of onnxruntime.")
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
    from netadapt_onnx.model import parse_shape

    return once_each(parse_shape(text) for text in given)


def once_each(pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """The values by name of an option that may be repeated. Raises BadParameter for a name given twice."""
    found: dict[str, Value] = {}
    for name, value in pairs:
        if name in found:
            raise click.BadParameter(f"'{name}' is given twice")
        found[name] = value
    return found


SHAPE = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1x3x224x224",
    callback=_shapes,
    help="Shape of an input with other dynamic axes; may be repeated.",
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


def chosen(function: Command) -> Command:
    """`--attention` and `--resize-io`: surgery's choices."""
    return ATTENTION(RESIZE_IO(function))


def common(function: Command) -> Command:
    """`--json` and `--debug`: read by the frame (`cli.py`), declared so that every command's help shows them."""
    function = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks and warnings.")(function)
    return click.option("--json", is_flag=True, expose_value=False, help="One JSON document on stdout.")(function)


def shaped(function: Command) -> Command:
    """`--shape` and `--batch-size`: what the file leaves open."""
    return SHAPE(BATCH_SIZE(function))


def _seconds(_: click.Context, __: click.Parameter, given: str) -> float:
    from netadapt_onnx.amounts import parse_seconds

    found = parse_seconds(given)
    if found is None:
        raise click.BadParameter(f"'{given}' is not a duration such as 60s or 2m")
    return found


def _bytes(_: click.Context, __: click.Parameter, given: str) -> int:
    from netadapt_onnx.amounts import parse_amount

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
