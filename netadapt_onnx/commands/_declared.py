"""click's options, derived from the declarations of `common/options.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from netadapt_onnx.common.options import Declared, check_bounds, declared_options

Command = TypeVar("Command", bound=Callable[..., Any])
Value = TypeVar("Value")


def once_each(pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """The values by name of an option that may be repeated. Raises BadParameter for a name that comes twice."""
    values: dict[str, Value] = {}
    for name, value in pairs:
        if name in values:
            raise click.BadParameter(f"'{name}' is given twice")
        values[name] = value
    return values


def _shapes(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    if not texts:
        return {}
    from netadapt_onnx.graph.inputs import parse_shape

    return once_each(parse_shape(text) for text in texts)


def _pairs(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise click.BadParameter(f"'{text}' is not KEY=VALUE")
    return once_each((key, value) for key, _, value in (text.partition("=") for text in texts))


def _count_or_auto(_: click.Context, __: click.Parameter, text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"'{text}' is neither auto nor a whole number") from None


# How the texts of an option are read whose type is not one word or number.
PARSERS: Mapping[str, Callable[..., Any]] = {
    "Mapping[str, tuple[int, ...]]": _shapes,
    "Mapping[str, Sequence[int]]": _shapes,
    "Mapping[str, str]": _pairs,
    'int | Literal["auto"]': _count_or_auto,
}


def click_option(declared: Declared, **changes: Any) -> Callable[[Command], Command]:
    """A declared option as a decorator of a command; `changes` are other arguments of `click.option`."""
    option = declared.option
    arguments: dict[str, Any] = {"help": option.help, "required": declared.is_required}
    if declared.type.removesuffix(" | None") == "bool":
        arguments["is_flag"] = True
        if "/" in declared.flag:
            arguments |= {"default": declared.default, "show_default": declared.default is not None}
        if option.default_text:
            arguments["help"] += f"  [default: {option.default_text}]"
    else:
        arguments |= {
            "metavar": option.metavar or None,
            "type": _type(declared),
            "multiple": option.is_repeated,
            "callback": PARSERS.get(declared.type),
        }
        if option.default_text:
            arguments["help"] += f"  [default: {option.default_text}]"
        elif isinstance(declared.default, str | int | float):
            arguments |= {"default": declared.default, "show_default": True}
    return click.option(declared.flag, declared.name, **{**arguments, **changes})


def declared(kind: type[Any], changes: Mapping[str, Mapping[str, Any]] | None = None) -> Callable[[Command], Command]:
    """A decorator that adds the options which a dataclass declares to a command, in their order.

    Args:
        kind: The dataclass.
        changes: By option, other arguments of `click.option`: how a text is read, for instance.
    """

    def decorate(function: Command) -> Command:
        for one in reversed([*declared_options(kind).values()]):
            if one.option.on_command_line:
                function = click_option(one, **(changes or {}).get(one.name, {}))(function)
        return function

    return decorate


def keywords_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a command line or a configuration names, as keywords of a Python function."""
    return {name: value for name, value in options.items() if value not in (None, (), {})}


def _type(declared: Declared) -> click.ParamType[Any]:
    option = declared.option
    if option.choices:
        return click.Choice(option.choices)
    if option.is_path:
        return click.Path()
    numbers: dict[str, click.ParamType[Any]] = {"int": click.INT, "float": click.FLOAT}
    kind = numbers.get(declared.type.removesuffix(" | None"))
    return click.STRING if kind is None else _Bounded(declared, kind)


class _Bounded(click.ParamType[Any]):
    """A number within its declared bounds, refused before anything else is read."""

    def __init__(self, declared: Declared, kind: click.ParamType[Any]) -> None:
        self.declared, self.kind, self.name = declared, kind, kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number. Raises NetadaptError as the option's dataclass does."""
        number = self.kind.convert(value, param, ctx)
        check_bounds(self.declared, number)
        return number
