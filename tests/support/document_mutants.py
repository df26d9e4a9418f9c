"""Broken documents: JSON changed at its places, other text at its words, and either in its lines and bytes."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mutants import HOSTILE, changed_bytes

VALUES: tuple[Any, ...] = (
    *(0, -1, 1, -0.5, 1e-300, 1e300, 2**31, 2**40, 2**64, 10**30, 4e6, True, None, "", "x", "../../x", "a" * 5000),
    *(HOSTILE[2], [], [0], [[]], [1.0] * 20_000, {}, {"x": 1}, {"record": "measured"}, "1", "cpu", "float", "eJw="),
)
TORN = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "[" * 5000,
    '{"a":' * 5000,
    '"\\ud800"',
    "\x00",
    "\xff",
    "",
    "\n",
    "{}",
)


def mutant_of(file: Path, rng: random.Random) -> bytes:
    """What a file holds, broken as its kind can be."""
    data = file.read_bytes()
    if file.suffix == ".npz":
        return archive_mutant(data, rng)
    return changed_bytes(data, rng) if file.suffix == ".onnx" else document_mutant(data, rng)


def archive_mutant(data: bytes, rng: random.Random) -> bytes:
    """An .npz file with bytes changed, or one of its arrays: its header, its values, its name, or it gone."""
    if rng.random() < 0.2:
        return changed_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    name, kind = rng.choice(sorted(arrays)), rng.randrange(8)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[rng.choice([*arrays, "x_val.nobody.npy", "../x.npy", "x"])] = arrays.pop(name)
    elif kind == 2:
        arrays[name] = _stored(_other_array(np.load(io.BytesIO(arrays[name])), rng))
    else:
        head = arrays[name][:128]  # numpy pads headers to that
        arrays[name] = changed_bytes(head, rng) + arrays[name][128:]
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for key, value in arrays.items():
            archive.writestr(key, value)
    return changed.getvalue()


def _other_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    kind = rng.randrange(5)
    if kind == 0:
        return array.astype(rng.choice(("float64", "int8", "uint8", "bool", "complex64", "S4", "float16")))
    if kind == 1:
        return array[: rng.choice((0, 1, 3))]
    if kind == 2:
        return array.reshape(-1) if rng.random() < 0.5 else array[None]
    if kind == 3:
        changed = array.astype(np.float32)
        changed.reshape(-1)[0] = rng.choice((np.nan, np.inf, -np.inf, 1e30))
        return changed
    return np.full_like(array, rng.choice((-1, 0, 127)))


def _stored(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def document_mutant(data: bytes, rng: random.Random) -> bytes:
    """A text file (JSON in one or in many lines, TOML, CSV) with one to three fields, lines or bytes changed."""
    lines = data.splitlines() or [b""]
    document = _parsed(data)
    if document is not None and len(lines) > 1:
        lines = [json.dumps(document).encode()]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, kind = rng.randrange(len(lines)), rng.random()
        if kind < 0.65:
            lines[at] = _changed_record(lines[at], rng)
        elif kind < 0.75:
            lines[at] = rng.choice(TORN).encode("latin-1")
        elif kind < 0.85:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif kind < 0.9 and len(lines) > 1:
            del lines[at]
        elif kind < 0.92:
            return b""
        else:
            lines[at] = changed_bytes(lines[at] or b" ", rng)
    return b"\n".join(lines) + b"\n"


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _changed_record(line: bytes, rng: random.Random) -> bytes:
    record = _parsed(line)
    if record is None:
        return _changed_words(line, rng)
    # The kinds of places alike: a line has hundreds of times and one schema.
    paths = [path for path in places(record) if path]
    kinds = sorted({_kind(path) for path in paths}, key=str)
    if not kinds:
        return json.dumps(rng.choice(VALUES)).encode()
    chosen = rng.choice(kinds)
    path = rng.choice([path for path in paths if _kind(path) == chosen])
    change = drop if rng.random() < 0.15 else put(rng.choice(VALUES))
    return json.dumps(changed(record, path, change), separators=(",", ":")).encode()


def _changed_words(line: bytes, rng: random.Random) -> bytes:
    """Of TOML and CSV: one number, word or sign replaced."""
    text = line.decode(errors="replace")
    words = text.replace(",", " , ").replace("=", " = ").split()
    if not words:
        return line
    words[rng.randrange(len(words))] = json.dumps(rng.choice(VALUES))
    return " ".join(words).encode()


def _kind(path: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(key if isinstance(key, str) else 0 for key in path)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything within a JSON value."""
    inside: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    return [path, *(place for key, part in inside for place in places(part, (*path, key)))]


def changed(record: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A record after `change(container, key)` of what lies at a path."""
    copy = json.loads(json.dumps(record))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return copy


def put(value: Any) -> Callable[[Any, Any], None]:
    """A change that replaces what is there."""

    def change(container: Any, key: Any) -> None:
        container[key] = value

    return change


def drop(container: Any, key: Any) -> None:
    """A change that takes out what is there."""
    del container[key]
