"""The project's configuration file: `netadapt.toml`, or `[tool.netadapt-onnx]` in `pyproject.toml`, found upwards.

A command asks for its own section as a msgspec type and gets it validated; what nobody knows is refused with the
nearest name.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError, did_you_mean

T = TypeVar("T")

FILES = ("netadapt.toml", "pyproject.toml")
TABLE = "netadapt-onnx"
# The sections that commands read. `devices`: name -> how its latency is known.
SECTIONS = ("gate", "devices", "adapt")


@dataclass(frozen=True)
class Section(Generic[T]):
    """A validated section and the file it is from; paths in it are relative to that file's folder."""

    value: T
    file: Path

    @property
    def folder(self) -> Path:
        """What paths in the section are relative to."""
        return self.file.parent


def find(start: Path) -> Path | None:
    """The configuration file of the nearest folder upwards that has one."""
    for folder in (start.resolve(), *start.resolve().parents):
        for name in FILES:
            file = folder / name
            if file.is_file() and (name == FILES[0] or TABLE in _parse(file).get("tool", {})):
                return file
    return None


def read(file: Path, section: str, kind: type[T]) -> Section[T] | None:
    """A section of a configuration file, None if it has none. Raises NetadaptError naming what is wrong and where."""
    if not file.is_file():
        raise missing_file(file)
    document = _parse(file)
    inside = file.name == FILES[1]
    tables = document.get("tool", {}).get(TABLE, {}) if inside else document
    place = f"tool.{TABLE}." if inside else ""
    for name in tables:
        if name not in SECTIONS:
            hint = did_you_mean(name, SECTIONS, f"known: {', '.join(SECTIONS)}")
            raise _invalid(f"{file}: unknown section '{place}{name}'", hint)
    if section not in tables:
        return None
    if isinstance(tables[section], dict) and isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.VarTupleType):
        name = f"{place}{section}"
        raise _invalid(f"{file}: [{name}] is one table, and there may be several", f"write [[{name}]]")
    try:
        return Section(msgspec.convert(tables[section], kind), file)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        at = f"{place}{section}{where.rstrip('`')}"
        unknown = re.search(r"unknown field `(.+)`", message)
        if unknown is None:
            raise _invalid(f"{file}: {at}: {message}") from error
        names = sorted(_fields(msgspec.inspect.type_info(kind)))
        hint = did_you_mean(unknown[1], names, f"known: {', '.join(names)}")
        raise _invalid(f"{file}: unknown key '{unknown[1]}' in {at}", hint) from error


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except UNREADABLE as error:
        raise _invalid(f"{file}: {error}") from error


def _fields(kind: msgspec.inspect.Type) -> set[str]:
    """The names of all keys that a type has at any depth."""
    if isinstance(kind, msgspec.inspect.StructType):
        return {f.encode_name for f in kind.fields}.union(*(_fields(f.type) for f in kind.fields))
    if isinstance(kind, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        return _fields(kind.item_type)
    if isinstance(kind, msgspec.inspect.DictType):
        return _fields(kind.value_type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return set().union(*map(_fields, kind.types))
    return set()


def _invalid(message: str, hint: str = "") -> NetadaptError:
    return NetadaptError(message, hint=hint, code="config")
