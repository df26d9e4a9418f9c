"""`--config`: the options of a command, as a section of the project's configuration file. Flags win."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from netadapt_onnx.commands._help import SectionedOption
from netadapt_onnx.common.options import RUNNING
from netadapt_onnx.errors import NetadaptError

Command = TypeVar("Command", bound=Callable[..., Any])


def configured(
    section: str, *, without: Collection[str] = (), files: Collection[str] = ()
) -> Callable[[Command], Command]:
    """A decorator that adds `--config` to a command: its defaults are those of `[section]`, found upwards.

    Keys are the options' long names; repeated options take lists or tables. `without` are options that a file cannot
    hold; `files` options `[NAME=]FILE` whose file, like every path, is relative to the configuration.
    """

    def read(ctx: click.Context, _: click.Parameter, named: Path | None) -> None:
        from netadapt_onnx.common import config

        if ctx.resilient_parsing:
            return
        file = named or config.find(Path.cwd())
        options = _options(ctx.command, without)
        table = None if file is None else config.read(file, section, _kind(section, options))
        if table is None:
            return
        ctx.default_map = {}
        for name, option in options.items():
            value = getattr(table.value, name.replace("-", "_"))
            if value is not None:
                folder = table.file.resolve().parent if isinstance(option.type, click.Path) or name in files else None
                place = f"{table.file}: {section}.{name}"
                ctx.default_map[str(option.name)] = _checked(ctx, option, value, place, folder)

    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=read,
        cls=SectionedOption,
        section=RUNNING,
        help=f"Read options from section [{section}] of this netadapt.toml or pyproject.toml; without it one is looked "
        "for here and in the folders above. Flags override it.",
    )


def _options(command: click.Command, without: Collection[str]) -> dict[str, click.Option]:
    by_name = {}
    for param in command.params:
        long = [name.removeprefix("--") for name in param.opts if name.startswith("--")]
        if isinstance(param, click.Option) and long and long[0] not in {*without, "config", "json", "debug", "help"}:
            by_name[long[0]] = param
    return by_name


def _kind(section: str, options: Mapping[str, click.Option]) -> Any:
    """The section as a type: every option, none of them required."""
    import msgspec

    one = str | int | float
    fields: list[tuple[str, Any, Any]] = []
    for name, option in options.items():
        many = one | list[one] | dict[str, one]
        kind: Any = bool if option.is_flag else many if option.multiple else one
        fields.append((name.replace("-", "_"), kind | None, None))
    return msgspec.defstruct(section, fields, frozen=True, forbid_unknown_fields=True, rename="kebab")


def _checked(ctx: click.Context, option: click.Option, value: Any, place: str, folder: Path | None) -> Any:
    """The value as the command line has it; paths start from `folder`, and errors name the `place`."""
    if option.is_flag:
        return value
    if isinstance(value, dict):
        value = [f"{key}={amount}" for key, amount in value.items()]
    texts = [str(one) for one in (value if isinstance(value, list) else [value])]
    if folder is not None:
        parts = [text.rpartition("=") for text in texts]
        texts = [f"{name}{equals}{folder / path}" for name, equals, path in parts]
    words = texts if option.multiple else texts[0]
    try:
        value = option.type_cast_value(ctx, words)
        if option.callback is not None:
            option.callback(ctx, option, value)
    except click.BadParameter as error:
        raise NetadaptError(f"{place}: {error.message.rstrip('.')}", code="config") from error
    except NetadaptError as error:  # out of its bounds
        message = error.message.removeprefix(f"--{place.rpartition('.')[2]} ")
        raise NetadaptError(f"{place}: {message}", hint=error.hint, code="config") from error
    return words
