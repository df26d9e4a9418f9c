"""Escaped text is printable, tells names apart and loses none of them."""

from __future__ import annotations

import json
import os
import shlex
import tomllib
from pathlib import Path

import msgspec

from hostile_names import NAMES, acting
from netadapt_onnx.common.escape import (
    PrintablePath,
    escape,
    escape_json,
    escape_lines,
    printable_copy,
    shell_command,
    toml_string,
)
from netadapt_onnx.common.json_output import json_bytes
from netadapt_onnx.gating.result import Blame

FILE = "\n::error::\x1b[31m\u202e##vso[x]FORGED.onnx"


def test_escapes_are_printable_idempotent_and_apart() -> None:
    escaped = [escape(name) for name in NAMES]
    assert not acting("\n".join(escaped)) and len(set(escaped)) == len(NAMES)
    assert [escape(text) for text in escaped] == escaped
    assert escape("größe/层::x #1 [a]") == "größe/层::x #1 [a]"
    assert escape_lines("a\n ::b\n\x1b[1mc\x1b[0m", colours=True) == "a\n \\x3a:b\n\x1b[1mc\x1b[0m"
    for name in NAMES:
        assert json.loads(escape_json(json.dumps(name, ensure_ascii=False))) == name
        assert json.loads(json_bytes({name: name})) == {name: name}
        assert tomllib.loads(f"{toml_string(name)} = {toml_string(name)}") == {name: name}
        assert escape(name) != name or shlex.split(shell_command([name])) == [name]


def test_copies_of_results_are_printable_and_otherwise_the_same() -> None:
    class Line(msgspec.Struct, frozen=True):
        names: tuple[str, ...]

    blame = Blame(NAMES[0], "Conv", "macs", 1, 2)
    line = printable_copy(Line((NAMES[4], "conv1")))
    assert line.names == ("\\x23#[error]e", "conv1")
    assert printable_copy({NAMES[0]: [blame]}) == {escape(NAMES[0]): [Blame(escape(NAMES[0]), "Conv", "macs", 1, 2)]}
    assert printable_copy({"a\x1b": 1, "a\\x1b": 2}) == {"a\\x1b": 1, "a\\x1b (2)": 2}
    harmless = {"a": [Blame("conv1", "Conv", "macs", 1, 2)], "b": (Path("c"), 1.5, None)}
    assert printable_copy(harmless) is harmless
    path = printable_copy(Path(FILE))
    assert isinstance(path, PrintablePath) and os.fspath(path) == FILE and not acting(str(path))
