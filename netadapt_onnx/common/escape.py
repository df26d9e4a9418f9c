"""Text of others, escaped: a name neither ends a line, nor steers a terminal, nor commands a CI system.

Names come from models, files, devices and libraries' errors, all of which a stranger may have written. What cannot be
printed is shown as its escape (`\\x1b`, `\\u202e`), so that names stay apart from each other and can be found again.
"""

from __future__ import annotations

import copy
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# Control, format (directions, zero width), surrogates, private use, unassigned; separators of lines and paragraphs.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# GitHub acts on `::` at the beginning of a line, behind white space too, and on `##[` anywhere; Azure on `##[` and
# `##vso[` anywhere, TeamCity on `##teamcity[`, GitLab and Travis on the beginnings and ends of sections.
_ANYWHERE = r"#(?=#[\w.-]*\[)|s(?=ection_(?:start|end):)|t(?=ravis_(?:fold|time):)"
_COMMANDS = re.compile(rf"(?<![^\n])(?P<space>[^\S\n]*):(?=:)|{_ANYWHERE}", re.IGNORECASE)
_JSON_COMMANDS = re.compile(_ANYWHERE, re.IGNORECASE)
# The colours that tables are painted with; nothing else may steer a terminal.
_COLOURS = re.compile(r"(\x1b\[(?:0|1|31|32|33)m)")
_SURROGATES = re.compile("[\ud800-\udfff]")
_NAMED = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def escape(text: object) -> str:
    """Text of others as it may stand on one line of any stream.

    >>> escape("conv\\n1"), escape("::error::x"), escape("##vso[task]"), escape("größe")
    ('conv\\\\n1', '\\\\x3a:error::x', '\\\\x23#vso[task]', 'größe')
    """
    return escape_lines(str(text), kept="")


def escape_lines(text: str, *, colours: bool = False, kept: str = "\n") -> str:
    """As `escape` for text of several lines, whose ends are `kept`; `colours`: with those of tables on a terminal."""
    parts = _COLOURS.split(text) if colours else [text]
    visible = "".join(part if i % 2 else _visible(part, kept) for i, part in enumerate(parts))
    return _COMMANDS.sub(_broken, visible)


def escape_joined(text: str) -> str:
    """As `escape`, with the lines of a text, such as an exception's, joined by spaces."""
    return escape(" ".join(text.split()))


def legible(text: str) -> str:
    """Text that can be encoded: bytes of file names that are no characters become question marks."""
    return _SURROGATES.sub("?", text)


def escape_json(text: str) -> str:
    """A JSON document with the same content whose characters are printable and hold no command of a CI system.

    >>> escape_json('"##[error]\\u202e"')
    '"\\\\u0023#[error]\\\\u202e"'
    """
    if not (text.isascii() and text.isprintable()):
        text = "".join(_utf16(c) if c != "\n" and _is_unprintable(c) else c for c in text)
    return _JSON_COMMANDS.sub(lambda match: _utf16(match[0]), text)


def toml_string(text: str) -> str:
    """A string or key of a TOML document, printable.

    >>> toml_string('a"\\x1b')
    '"a\\\\"\\\\u001b"'
    """
    quoted = "".join("\\" + c if c in '\\"' else _toml_code(c) if _is_unprintable(c) else c for c in text)
    return f'"{_JSON_COMMANDS.sub(lambda match: _toml_code(match[0]), quoted)}"'


def shell_command(words: Iterable[object]) -> str:
    """A command line to be pasted into a shell, printable: words that are not take bash's and zsh's `$'...'`.

    >>> shell_command(["inspect", "my model.onnx", "a\\x1b'b.onnx"])
    "inspect 'my model.onnx' $'a\\\\x1b\\\\'b.onnx'"
    """
    return " ".join(_shell_word(os.fspath(w) if isinstance(w, os.PathLike) else str(w)) for w in words)


@dataclass(frozen=True)
class PrintablePath(os.PathLike[str]):
    """A path whose text is escaped and which still names its file."""

    path: str

    def __str__(self) -> str:
        return escape(self.path)

    def __fspath__(self) -> str:
        return self.path


def printable_copy(value: T) -> T:
    """A result whose texts, keys and paths are escaped, for what shows it to people; the same object if none need be.

    It goes through dataclasses, msgspec's structs, mappings and sequences. Paths that need it become `PrintablePath`.
    """
    return _copied(value)  # type: ignore[no-any-return]


def _copied(value: Any) -> Any:
    if isinstance(value, str):
        text = escape(value)
        return value if text == value else text
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        return value if not isinstance(path, str) or escape(path) == path else PrintablePath(path)
    if isinstance(value, Mapping):
        return _with_keys(value)
    if type(value) in (list, tuple, set, frozenset):
        members = list(value)
        copies = [_copied(member) for member in members]
        return value if _are_same(copies, members) else type(value)(copies)
    if isinstance(value, type):
        return value
    names = [f.name for f in fields(value)] if is_dataclass(value) else getattr(value, "__struct_fields__", ())
    return _with_fields(value, names) if names else value


def _with_keys(value: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A copy of a mapping with printable keys and values; keys that come to the same stay apart."""
    copies: dict[Any, Any] = {}
    alike: Counter[Any] = Counter()
    for key, content in value.items():
        text = printable = _copied(key)
        while text in copies:
            alike[printable] += 1
            text = f"{printable} ({alike[printable] + 1})"
        copies[text] = _copied(content)
    return value if _are_same([*copies, *copies.values()], [*value, *value.values()]) else copies


def _with_fields(value: Any, names: Iterable[str]) -> Any:
    """A copy of a record with printable fields; also of frozen ones, whose checks have been made."""
    before = {name: getattr(value, name) for name in names if hasattr(value, name)}
    after = {name: _copied(content) for name, content in before.items()}
    if _are_same(after.values(), before.values()):
        return value
    record = copy.copy(value)
    set_field: Any = object.__setattr__
    if hasattr(value, "__struct_fields__"):
        from msgspec.structs import force_setattr as set_field
    for name, content in after.items():
        set_field(record, name, content)
    return record


def _are_same(a: Iterable[object], b: Iterable[object]) -> bool:
    return all(x is y for x, y in zip(a, b, strict=True))


def _visible(text: str, kept: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(_code(c) if c not in kept and _is_unprintable(c) else c for c in text)


def _broken(match: re.Match[str]) -> str:
    space = match["space"] or ""
    return space + _code(match[0][len(space) :])


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in _UNPRINTABLE


def _code(character: str) -> str:
    """A character as Python, bash and zsh write it; see `legible` for what is none."""
    if _SURROGATES.match(character):
        return "?"
    if character in _NAMED:
        return _NAMED[character]
    return f"\\x{ord(character):02x}" if character.isascii() else _toml_code(character)


def _toml_code(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _utf16(character: str) -> str:
    """A character as JSON writes it: one beyond 16 bits is a pair."""
    data = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[i]:02x}{data[i + 1]:02x}" for i in range(0, len(data), 2))


def _shell_word(word: str) -> str:
    if escape(word) == word:
        return shlex.quote(word)
    quoted = "".join("\\" + c if c in "\\'" else _shell_code(c) for c in word)
    return f"$'{_COMMANDS.sub(_broken, quoted)}'"


def _shell_code(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file name that is no character
        return f"\\x{ord(character) - 0xDC00:02x}"
    return _code(character) if _is_unprintable(character) else character
