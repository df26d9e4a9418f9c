"""Write the reference pages from the program itself: the commands' help, and the docstrings of what is public.

And the types of the functions' keywords (`netadapt_onnx/api/keywords.py`), from the declared options.

python docs/reference.py    # make docs; a test fails where the pages and the program differ
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))

from keywords import FILE as KEYWORDS_FILE
from keywords import KEYWORDS, keywords_file

import netadapt_onnx
from netadapt_onnx import cli
from netadapt_onnx.commands._describe import Described, Parameter, described
from netadapt_onnx.common.options import Declared, declared_options

FOLDER = Path(__file__).resolve().parent
NOTICE = "<!-- Made by docs/reference.py (make docs): edit the program's own texts instead. -->"
# In the order of a user's work.
NAMES = (
    *("load", "inspect", "measure_latency", "profile", "prune", "evaluate", "adapt", "restore", "report"),
    *("finetune", "scale", "export", "export_module", "to_torch", "from_torch", "slice_state_dict", "gate", "diff"),
    *("DataSource", "NetadaptError"),
)


def command_line() -> str:
    """Every command with its arguments, options and examples."""
    commands = list(_commands())
    index = " · ".join(f"[{d.command.partition(' ')[2]}](#{_anchor(d.command)})" for d in commands)
    head = [
        "# Reference: the command line",
        NOTICE,
        "`netadapt-onnx COMMAND --help` says the same, and with `--json` as data. Exit codes: 0: target met, "
        "1: ran, target not met, 2: error, 130: interrupted.",
        index,
        "Every command has `-h`/`--help`, `--json` (one JSON document on stdout), `-v`/`--verbose` (what happens, on "
        "stderr), `-q`/`--quiet` (no progress, and not what to run next) and `--debug` (tracebacks and warnings).",
    ]
    return "\n\n".join([*head, *(_command(d) for d in commands)]) + "\n"


def _commands() -> Iterator[Described]:
    with cli.group.make_context(cli.PROGRAM, ["env"]) as context:
        for name in cli.COMMANDS:
            command = cli.group.get_command(context, name)
            assert command is not None
            yield described(command, f"{cli.PROGRAM} {name}")
            subcommands: dict[str, click.Command] = getattr(command, "subcommands", {})
            yield from (described(one, f"{cli.PROGRAM} {name} {word}") for word, one in subcommands.items())


COMMON = {"--help", "--help-all", "--json", "--verbose", "--quiet", "--debug"}


def _command(shown: Described) -> str:
    rows = [_row(p) for p in shown.parameters if COMMON.isdisjoint(p.names)]
    text, _, examples = shown.help.partition("Examples:")
    if not examples:
        text, _, examples = shown.help.partition("Example:")
    lines = [line.strip() for line in examples.strip().splitlines()]
    parts = [f"## {shown.command}", _text(text), "```text\n" + shown.usage + "\n```"]
    if any(row[0].startswith("`-") for row in rows):
        cells = [[cell.replace("|", "\\|") for cell in row] for row in rows if row[0].startswith("`-")]
        parts.append("| option | default | |\n|---|---|---|\n" + "\n".join(f"| {' | '.join(row)} |" for row in cells))
    if lines:
        parts.append("For example:\n```text\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts)


def _row(parameter: Parameter) -> list[str]:
    takes = f" {parameter.takes}" if parameter.takes else ""
    names = ", ".join(parameter.names)
    default = f"`{parameter.default}`" if parameter.default else "required" if parameter.required else ""
    return [f"`{names}{takes}`", default, parameter.help]


def python() -> str:
    """Every public function and class with its signature, what it does, an example, and what it returns."""
    index = " · ".join(f"[{name}](#{name.lower()})" for name in NAMES)
    rows = [NAMES[i : i + 8] for i in range(0, len(NAMES), 8)]  # lines that the formatter leaves alone
    head = [
        "# Reference: Python",
        NOTICE,
        "`import netadapt_onnx`: what it exports is listed here, and nothing else is public. Results are frozen "
        "dataclasses with the fields of the command's `--json`. Examples run one after another (a test does), in a "
        "folder with `model.onnx`, a network of two convolutions, a copy of it called `before.onnx`, samples in "
        "`data.npz`, and `net.py` with a PyTorch network. Editors and type checkers know the options that a function "
        "takes as `**options`.",
        index,
        "```pycon\n" + "".join(f">>> from netadapt_onnx import {', '.join(row)}\n" for row in rows) + "```",
    ]
    return "\n\n".join([*head, *(_public(name) for name in NAMES)]) + "\n"


def _public(name: str) -> str:
    thing = getattr(netadapt_onnx, name)
    text, _, example = inspect.getdoc(thing).partition("\n>>> ")
    parts = [f"## {name}", "```text\n" + _signature(name, thing) + "\n```"]
    words = _words(thing)
    if words:
        parts.append("  \n".join(f"`{word}`: `{meaning}`" for word, meaning in words.items()))
    parts += [_text(text), f"```pycon\n>>> {example.strip()}\n```"]
    options = _options(thing)
    if options:
        rows = [[f"`{o.name}`", f"`{_plain(o.type)}`", _default_of(o), o.option.help] for o in options]
        lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
        parts.append("\n".join(["| option | type | default | |", "|---|---|---|---|", *lines]))
    returned = _returned(thing)
    if returned is not None:
        parts.append(_fields(returned))
    return "\n\n".join(parts)


def _signature(name: str, thing: Any) -> str:
    """One parameter a line where they do not fit into one."""
    signature = inspect.signature(thing)
    texts, keyword = [], False
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not keyword:
            texts.append("*")
            keyword = True
        default = "" if p.default is p.empty else f" = {_default(p.default)}"
        kind = p.annotation if isinstance(p.annotation, str) else _plain(str(p.annotation))
        texts.append(f"{'**' if p.kind is p.VAR_KEYWORD else ''}{p.name}: {kind}{default}")
    result = f" -> {signature.return_annotation}" if inspect.isfunction(thing) else ""
    short = f"{name}({', '.join(texts)}){result}"
    return short if len(short) <= 100 else f"{name}(\n" + "".join(f"    {t},\n" for t in texts) + f"){result}"


def _default(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


# What everybody knows, or knows where to look up.
PLAIN_TYPES = ("Any", "Callable", "Iterable", "Literal", "Mapping", "None", "Sequence", "Unpack")


def _words(thing: Any) -> dict[str, str]:
    """The names in a function's signature that are short for other types, with their meaning."""
    if not inspect.isfunction(thing):
        return {}
    from netadapt_onnx.api import keywords as keyword_types  # which this program may just have written

    module = inspect.getmodule(thing)
    annotations = [str(p.annotation) for p in inspect.signature(thing).parameters.values()]
    annotations += [one.type for one in _options(thing)]
    meanings = {}
    for word in re.findall(r"\b[A-Z]\w+\b", " ".join(annotations)):
        meaning = getattr(module, word, None) or getattr(keyword_types, word, None)
        if word not in PLAIN_TYPES and meaning is not None and not isinstance(meaning, type | ModuleType):
            meanings[word] = _plain(str(meaning))
    return meanings


def _options(thing: Any) -> list[Declared]:
    """The options that a function takes as `**options`, as they are declared."""
    parameters = inspect.signature(thing).parameters.values()
    annotation = next((str(p.annotation) for p in parameters if p.kind is p.VAR_KEYWORD), "")
    kind, without = KEYWORDS.get(annotation.removeprefix("Unpack[").removesuffix("]"), (None, ()))
    return [] if kind is None else [one for one in declared_options(kind).values() if one.name not in without]


def _default_of(declared: Declared) -> str:
    """The default of an option; what depends on others in words."""
    if declared.option.default_text:
        return declared.option.default_text
    return "" if declared.default in (None, ()) else f"`{_default(declared.default)}`"


def _plain(text: str) -> str:
    """Types by their last names."""
    text = re.sub(r"<class '(.+?)'>", r"\1", text)
    text = re.sub(r"Optional\[(.+)\]", r"\1 | None", re.sub(r"ForwardRef\('(.+?)'.*?\)", r"\1", text))
    return re.sub(r"\b(?:[a-z_]\w*\.)+(\w+)", r"\1", text)


def _returned(thing: Any) -> type | None:
    """The dataclass that a function returns."""
    if not inspect.isfunction(thing):
        return None
    name = str(inspect.signature(thing).return_annotation)
    kind = getattr(inspect.getmodule(thing), name, None)
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _fields(kind: type) -> str:
    rows = [f"| `{f.name}` | `{_cell(str(f.type))}` |" for f in dataclasses.fields(kind)]
    text = _text(inspect.getdoc(kind) or "")
    return f"Returns **{kind.__name__}**: {text}\n\n| field | |\n|---|---|\n" + "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _text(docstring: str) -> str:
    """Paragraphs, each on one line; the parts of a docstring (`Args:`) as lists."""
    return "\n\n".join(_paragraph(part) for part in docstring.strip().split("\n\n"))


def _paragraph(text: str) -> str:
    head, _, rest = text.strip("\n").partition("\n")
    if head.strip() not in ("Args:", "Returns:", "Raises:", "Attributes:"):
        return " ".join(text.split())
    lines = [" ".join(entry.split()) for entry in re.split(r"\n(?=\S)", textwrap.dedent(rest))]
    if head.strip() == "Returns:":
        return f"Returns: {' '.join(lines)}"
    return f"{head.strip()}\n" + "\n".join(re.sub(r"^([\w, ]+):", r"- `\1`:", line) for line in lines)


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


PAGES = {f"../{KEYWORDS_FILE}": keywords_file, "reference-cli.md": command_line, "reference-python.md": python}

if __name__ == "__main__":
    for file, written in PAGES.items():
        (FOLDER / file).write_text(written(), encoding="utf-8")
