"""click's options, derived from the declarations of `common/options.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, TypeVar

import click

from netadapt_onnx.commands._help import SectionedOption
from netadapt_onnx.common.options import Declared, check_bounds, declared_options, share_of

Command = TypeVar("Command", bound=Callable[..., Any])
Value = TypeVar("Value")


def by_name(parse: Callable[[str], tuple[str, Value]]) -> Callable[..., dict[str, Value]]:
    """A callback for an option that may be repeated: its values by name.

    It raises BadParameter for a name that comes twice.
    """

    def values(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, Value]:
        pairs = [parse(text) for text in texts]
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise click.BadParameter(f"'{twice}' is given twice")
        return dict(pairs)

    return values


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    from netadapt_onnx.graph.inputs import parse_shape

    return parse_shape(text)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"'{text}' is not KEY=VALUE")
    return key, value


def _count_or_auto(_: click.Context, __: click.Parameter, text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"'{text}' is neither auto nor a whole number") from None


# How the texts of an option are read whose type is not one word or number.
PARSERS: Mapping[str, Callable[..., Any]] = {
    "Mapping[str, tuple[int, ...]]": by_name(_shape),
    "Mapping[str, Sequence[int]]": by_name(_shape),
    "Mapping[str, str]": by_name(_pair),
    "int | Literal['auto']": _count_or_auto,
}


def decorated(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds several options to a command, in their order."""
    return lambda function: reduce(lambda command, option: option(command), reversed(options), function)


def click_option(declared: Declared, **changes: Any) -> Callable[[Command], Command]:
    """A declared option as a decorator of a command; `changes` are other arguments of `click.option`."""
    option = declared.option
    arguments: dict[str, Any] = {
        "cls": SectionedOption,
        "help": option.help,
        "required": declared.is_required,
        "section": declared.section,
        "is_advanced": option.is_advanced,
    }
    if declared.type.removesuffix(" | None") == "bool":
        arguments["is_flag"] = True
        if "/" in declared.flag:
            arguments |= {"default": declared.default, "show_default": declared.default is not None}
        if option.default_text:
            arguments["help"] += f"  [default: {option.default_text}]"
    else:
        arguments |= {
            "metavar": option.metavar or ("SHARE" if option.is_share else None),
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
    options = [one for one in declared_options(kind).values() if one.option.on_command_line]
    return decorated(*(click_option(one, **(changes or {}).get(one.name, {})) for one in options))


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
        is_written_share = self.declared.option.is_share and isinstance(value, str)
        number = share_of(self.declared.flag, value) if is_written_share else self.kind.convert(value, param, ctx)
        check_bounds(self.declared, number)
        return number
