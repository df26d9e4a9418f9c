"""What a command says of commands: what to run next, how to go on with what Ctrl-C has ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from netadapt_onnx.common.escape import shell_command
from netadapt_onnx.errors import is_interruption


def typed_words() -> tuple[str, ...]:
    """The words of the command line that is running, as the user typed them, without the program's name."""
    context = click.get_current_context()
    return tuple(context.obj) if context.obj else tuple(context.command_path.split()[1:])


def again(*more: object, without: Collection[str] = ()) -> str:
    """The command that is running, with `more` words, unless they are a flag that it has, and `without` some flags."""
    words = [word for word in typed_words() if word not in without]
    is_there = len(more) == 1 and more[0] in words
    return shell_command(["netadapt-onnx", *words, *(() if is_there else more)])


def with_model(text: str, model: Path | None) -> str:
    """A text whose suggestions name the model that the running command was given, where they say MODEL."""
    if model is None:
        return text
    return re.sub(r"(`netadapt-onnx [^`]*?)\bMODEL\b", lambda match: match[1] + shell_command([model]), text)


def unused_path(path: Path) -> Path:
    """The path, or the first of its name with a number that is not there yet, so that a suggestion is not refused."""
    candidates = [path, *(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, 100))]
    return next((one for one in candidates if not one.exists()), path)


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """Say after Ctrl-C what is kept and how to go on: what `kept` returns then."""
    try:
        yield
    except BaseException as error:
        if not is_interruption(error):
            raise
        raise KeyboardInterrupt(kept()) from error
