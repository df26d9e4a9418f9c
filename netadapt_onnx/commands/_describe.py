"""A command as data: what `--help --json` prints and what the reference is made of."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import cleandoc

import click


@dataclass(frozen=True)
class Parameter:
    """An argument or option: what it is called, what it takes, and what it is for."""

    names: tuple[str, ...]
    takes: str
    required: bool
    repeated: bool
    default: str | None
    help: str
    section: str = ""


@dataclass(frozen=True)
class Described:
    """A command line's help. `commands` are its subcommands, with a line each."""

    command: str
    usage: str
    help: str
    parameters: tuple[Parameter, ...]
    commands: dict[str, str]


def described(command: click.Command, name: str) -> Described:
    """The help of a command, as it is without the width of a terminal."""
    context = click.Context(command, info_name=name, terminal_width=10_000, max_content_width=10_000)
    pieces = " ".join(command.collect_usage_pieces(context))
    below = {}
    if isinstance(command, click.Group):
        subcommands = {sub: command.get_command(context, sub) for sub in command.list_commands(context)}
        below = {sub: one.get_short_help_str(200) for sub, one in subcommands.items() if one is not None}
    return Described(
        name,
        f"{name} {pieces}",
        cleandoc(command.help or "").replace("\b\n", ""),
        tuple(_parameter(p, context) for p in command.get_params(context) if not getattr(p, "hidden", False)),
        below,
    )


def _parameter(parameter: click.Parameter, context: click.Context) -> Parameter:
    if not isinstance(parameter, click.Option):
        return Parameter((parameter.make_metavar(context),), "", parameter.required, parameter.nargs != 1, None, "")
    takes = "" if parameter.is_flag else parameter.make_metavar(context)
    default = parameter.get_default(context)
    shown = parameter.show_default and default is not None and not parameter.is_flag and not callable(default)
    return Parameter(
        (*parameter.opts, *parameter.secondary_opts),
        takes,
        parameter.required,
        parameter.multiple,
        (", ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)) if shown else None,
        parameter.help or "",
        getattr(parameter, "section", ""),
    )
