"""Options declared once: the field of a frozen dataclass carries what every other spelling of it is derived from.

The command line (`commands/_declared.py`), the keywords of Python functions (`docs/reference.py` writes them as typed
dictionaries), what `--resume` compares, the command that a model's metadata repeats and the reference pages all read
these declarations. Imports nothing but the standard library, so that `--help` stays fast.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from operator import ge, gt, le
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from netadapt_onnx.common.amounts import parse_share
from netadapt_onnx.errors import NetadaptError, did_you_mean

if TYPE_CHECKING:
    from netadapt_onnx.common.progress import Progress

Options = TypeVar("Options")


@dataclass(frozen=True)
class Option:
    """What a field declares besides its name, its type and its default.

    Attributes:
        help: What the option does, in a sentence or two, as `--help` and the reference pages show it.
        flag: The option on the command line, where it is not the field's own name.
        metavar: What stands for a value in help.
        choices: The texts that are allowed; empty for any.
        above, at_least, at_most: The bounds of a number.
        default_text: The default as help shows it, where it is not simply the value.
        is_repeated: Whether the command line takes it several times.
        is_path: Whether it names a file.
        is_share: Whether it is a number that may also be written as a share: 0.5, 50% and 0.5x are the same.
        on_command_line: False for what only Python can pass, and for what a command declares by itself (`--data`).
        changes_result: Whether a run's result depends on it.
        may_differ_on_resume: Whether `--resume` takes another value of an option that changes the result.
        one_spelling: What makes equal values equal, however they are spelled, where that does not follow from the type.
        section: The heading that help shows it under, where it is not that of its dataclass (`SECTION`).
        is_advanced: Whether only `--help-all` shows it.
    """

    help: str
    flag: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    default_text: str = ""
    is_repeated: bool = False
    is_path: bool = False
    is_share: bool = False
    on_command_line: bool = True
    changes_result: bool = True
    may_differ_on_resume: bool = False
    one_spelling: Callable[[Any], Any] | None = None
    section: str = ""
    is_advanced: bool = False


# The headings of help, in their order.
NEEDED = "What you need"
DATA = "How data and models are read"
BUDGET = "Budget and limits"
SEARCH = "Search"
DEVICES = "Devices"
TRAINING = "Training"
RUNNING = "Running"
OUTPUT = "Output and help"
SECTIONS = (NEEDED, BUDGET, SEARCH, DEVICES, TRAINING, RUNNING, DATA, OUTPUT)


@dataclass(frozen=True)
class Declared:
    """A declared option: its name in Python, its type as it is written, its default (None where it has none).

    `section` is the heading that help shows it under.
    """

    name: str
    type: str
    default: Any
    is_required: bool
    option: Option
    section: str = ""

    @property
    def flag(self) -> str:
        """The option as the command line spells it."""
        return self.option.flag or "--" + self.name.replace("_", "-")


def option(default: Any = MISSING, help: str = "", *, factory: Any = MISSING, **declared: Any) -> Any:
    """Declare an option as a field of a frozen dataclass.

    Args:
        default: Its default; a field without one is required.
        help: See `Option`.
        factory: In the place of a default, a function that makes it.
        declared: The other attributes of `Option`.
    """
    metadata = {"option": Option(help, **declared)}
    return field(default=default, default_factory=factory, metadata=metadata)


def same_option(kind: type[Any], name: str, **changes: Any) -> Any:
    """Declare an option as another dataclass declares it, but for some attributes of `Option`."""
    other = next(one for one in fields(kind) if one.name == name)
    declared: Option = other.metadata["option"]
    section = declared.section or getattr(kind, "SECTION", "")
    metadata = {"option": replace(declared, **{"section": section, **changes})}
    return field(default=other.default, default_factory=other.default_factory, metadata=metadata)


def declared_options(kind: type[Any]) -> Mapping[str, Declared]:
    """The options that a dataclass declares, by name, in their order."""
    sections = {
        name: getattr(base, "SECTION", "") for base in reversed(kind.__mro__) for name in inspect.get_annotations(base)
    }
    return {
        one.name: Declared(
            one.name,
            str(one.type),
            None if one.default is MISSING else one.default,
            one.default is MISSING and one.default_factory is MISSING,
            one.metadata["option"],
            one.metadata["option"].section or sections[one.name],
        )
        for one in fields(kind)
        if "option" in one.metadata
    }


class CheckedOptions:
    """A base of dataclasses of options, whose values are checked when one is made."""

    def __post_init__(self) -> None:
        """Read shares; raise NetadaptError for a value that is out of its declared choices or bounds."""
        for name, declared in declared_options(type(self)).items():
            if declared.option.is_share:
                object.__setattr__(self, name, in_one_spelling(declared, getattr(self, name)))
        check_options(self)


def check_options(options: Any) -> None:
    """Check the values of a dataclass of options against their declared choices and bounds.

    Raises:
        NetadaptError: With the option's flag and what it takes, for the first value that is out of them.
    """
    for name, declared in declared_options(type(options)).items():
        value = getattr(options, name)
        if isinstance(value, str) and declared.option.choices:
            check_choice(declared.flag, value, declared.option.choices)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            check_bounds(declared, value)


def normalise_options(options: Any) -> None:
    """Replace the values of a dataclass of options by their one spelling. Raises NetadaptError as `in_one_spelling`."""
    for name, declared in declared_options(type(options)).items():
        object.__setattr__(options, name, in_one_spelling(declared, getattr(options, name)))


def in_one_spelling(declared: Declared, value: Any) -> Any:
    """The value of an option in the spelling that identities compare and commands record.

    The command line has texts, Python has numbers, paths, lists and mappings, `run.json` what JSON has: a number
    becomes one of its type, a path a text; `Option.one_spelling` says what becomes of anything else.

    Raises:
        NetadaptError: A text is not the number that the option takes.
    """
    if value is None or callable(value) or isinstance(value, bool):
        return value
    if declared.option.one_spelling is not None:
        return declared.option.one_spelling(value)
    if declared.option.is_path and isinstance(value, os.PathLike):
        return os.fspath(value)
    if declared.option.is_share and isinstance(value, str):
        return share_of(declared.flag, value)
    kind, *others = declared.type.split(" | ")
    if kind not in _NUMBERS:
        return value
    try:
        number = _NUMBERS[kind](value)
    except (TypeError, ValueError, OverflowError):
        if isinstance(value, str) and not any(other.startswith("Literal") for other in others):
            raise NetadaptError(f"{declared.flag} {value}: not a number", code="usage") from None
        return value
    return number if isinstance(value, str) or number == value else value


def share_of(flag: str, text: str) -> float:
    """The value of an option that takes a share. Raises NetadaptError for a text that is none."""
    share = parse_share(text)
    if share is None:
        raise NetadaptError(f"{flag} {text}: not a share", hint="write 0.5, 50% or 0.5x", code="usage")
    return share


# The types of options that take a number.
_NUMBERS: Mapping[str, type[int | float]] = {"int": int, "float": float}


def check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
    """Raise NetadaptError, with the nearest names, for a text that is none of an option's choices."""
    if value not in choices:
        hint = did_you_mean(value, choices, f"one of {', '.join(choices)}")
        raise NetadaptError(f"{flag} {value}: not known", hint=hint, code="usage")


def from_keywords(kind: type[Options], keywords: Mapping[str, Any]) -> Options:
    """A Python function's keywords as its dataclass of options: None leaves one out.

    Raises:
        TypeError: For an unknown keyword, in Python's own words; `AdaptOptions` are those of the function `adapt`.
    """
    declared = declared_options(kind)
    for name in keywords:
        if name not in declared:
            function = snake_case(kind.__name__.removesuffix("Options"))
            raise TypeError(f"{function}() got an unexpected keyword argument '{name}'")
    return kind(**{name: value for name, value in keywords.items() if value is not None})


def snake_case(words: str) -> str:
    """A class's name as a function's.

    >>> snake_case("MeasureLatency")
    'measure_latency'
    """
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in words).lstrip("_")


def plain(value: Any) -> Any:
    """The value of an option as JSON has it; a function by its name."""
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, tuple | list) else value


def word_of(value: Any) -> str:
    """The value of an option as help and texts show it; None is chosen by the program."""
    if value is None:
        return "auto"
    return str(value) if not isinstance(value, bool) else "yes" if value else "no"


def different_options(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """The names of recorded options that differ; one that only one of two versions has counts where it is on."""
    return [
        name
        for name in {**theirs, **mine}
        if (theirs[name] != mine[name] if name in theirs and name in mine else theirs.get(name) or mine.get(name))
    ]


def how_to_go_on(different: Sequence[str], mine: Mapping[str, Any]) -> str:
    """What to do about recorded options that differ: this version may not have one of them."""
    return "repeat its arguments" if all(name in mine for name in different) else "use the version that began it"


# By a bound: whether a value keeps it.
_KEPT: Mapping[str, Callable[[float, float], bool]] = {"above": gt, "at_least": ge, "at_most": le}


def check_bounds(declared: Declared, value: float) -> None:
    """Raise NetadaptError, with what an option takes, for a number that is out of its declared bounds."""
    bounds = {name: bound for name in _KEPT if (bound := getattr(declared.option, name)) is not None}
    if bounds and not (math.isfinite(value) and all(_KEPT[name](value, bound) for name, bound in bounds.items())):
        words = ", ".join(f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items())
        shown = str(value).removesuffix(".0")
        raise NetadaptError(f"{declared.flag} {shown}: {words}", code="usage")


File = str | os.PathLike[str]
# A mapping as Python passes it, or its pairs as `run.json` has them.
Pairs = Mapping[str, Any] | Sequence[tuple[str, Any]]


def _text_by_name(pairs: Pairs) -> dict[str, str]:
    return {name: str(value) for name, value in _sorted("ep_options", pairs, '{"KEY": "VALUE"}')}


def _shape_by_name(pairs: Pairs) -> dict[str, tuple[int, ...]]:
    example = '{"NAME": (1, 3, 224, 224)}'
    try:
        return {name: tuple(map(int, shape)) for name, shape in _sorted("shapes", pairs, example)}
    except (TypeError, ValueError):
        raise NetadaptError(f"shapes {pairs!r}: not lengths by name", hint=f"e.g. {example}", code="usage") from None


def _sorted(option: str, pairs: Pairs, example: str) -> list[tuple[str, Any]]:
    try:
        return sorted(dict(pairs).items())
    except (TypeError, ValueError):
        raise NetadaptError(f"{option} {pairs!r}: not values by name", hint=f"e.g. {example}", code="usage") from None


@dataclass(frozen=True)
class SharedOptions:
    """How models are read, where and how they run, and who follows the work."""

    SECTION: ClassVar[str] = DEVICES

    shapes: Mapping[str, tuple[int, ...]] = option(
        factory=dict,
        help="Shape of an input with dynamic axes besides the first, or of the output of an unknown operator; may be "
        "repeated.",
        flag="--shape",
        metavar="NAME=1x3x224x224",
        is_repeated=True,
        one_spelling=_shape_by_name,
        section=DATA,
        is_advanced=True,
    )
    batch_size: int = option(1, "Length of a dynamic first axis.", at_least=1, section=DATA, is_advanced=True)
    seed: int = option(0, "Seed of all random numbers; it is recorded.", at_least=0, at_most=2**63 - 1, section=RUNNING)
    overwrite: bool = option(False, "Replace existing outputs.", changes_result=False, section=RUNNING)
    force: bool = option(
        False, "Accept a latency table that was measured on another device.", changes_result=False, is_advanced=True
    )
    ep: str = option(
        "cpu",
        "Execution provider of onnxruntime: cpu, cuda, tensorrt, openvino, xnnpack, coreml, nnapi, qnn, directml, "
        "webgpu, or one that --ep-library provides.",
    )
    ep_options: Mapping[str, str] = option(
        factory=dict,
        help="Option of the execution provider; may be repeated.",
        flag="--ep-option",
        metavar="KEY=VALUE",
        is_repeated=True,
        is_advanced=True,
        one_spelling=_text_by_name,
    )
    ep_library: str | None = option(
        None,
        "Shared library of an execution provider that is a plugin.",
        metavar="FILE",
        is_path=True,
        is_advanced=True,
    )
    threads: int = option(1, "Threads that onnxruntime uses while it is timed.", at_least=1)
    deploy: Literal["float", "int8"] = option(
        "float",
        "What runs on the device: the float model, or its int8 form, which is calibrated with --data.",
        choices=("float", "int8"),
    )
    python: str = option(
        "python3", "Python interpreter on the device.", metavar="PATH", changes_result=False, is_advanced=True
    )
    perf_test: File | None = option(
        None,
        "The program onnxruntime_perf_test, built for a device without Python.",
        metavar="FILE",
        is_path=True,
        changes_result=False,
        is_advanced=True,
    )
    keep: bool = option(
        False, "Leave the files on the device when the work is done.", changes_result=False, is_advanced=True
    )
    progress: Progress | None = option(
        None, "A function of steps done, steps in all, and words.", on_command_line=False, changes_result=False
    )
    log: Callable[[str], None] | None = option(
        None, "A function that gets a line per event.", on_command_line=False, changes_result=False
    )
