"""The one JSON document that a command prints or writes: `schema`, `ok`, the result's fields, and the error if any."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from netadapt_onnx.common.escape import escape_joined, escape_json, legible
from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.errors import NetadaptError

SCHEMA = 1
# What msgspec and tomllib raise for bytes that are no document: their own errors, those of text and numbers of too many
# digits are ValueErrors.
UNREADABLE = (ValueError, RecursionError)


def error_fields(code: str, message: str, hint: str) -> dict[str, str]:
    """The `error` of a document."""
    return {"code": escape_joined(code), "message": escape_joined(message), "hint": escape_joined(hint)}


def document(result: object, ok: bool, error: NetadaptError | None = None) -> str:
    """A frozen result as a document. NaN and infinity become null, which is what JSON has for them."""
    body = msgspec.to_builtins(result, enc_hook=_plain)
    if error is not None:
        body = {**body, "error": error_fields(error.code, error.message, error.hint)}
    return msgspec.json.format(json_bytes({"schema": SCHEMA, "ok": ok, **body}), indent=2).decode()


def json_bytes(value: object, enc_hook: Callable[[Any], Any] | None = None) -> bytes:
    """A value as JSON on one line, for a file or a stream: names in it come back as they are, and act upon nothing."""
    try:
        data = msgspec.json.encode(value, enc_hook=enc_hook)
    except UnicodeEncodeError:  # a file's name holds bytes that are no characters, for which JSON has nothing
        data = msgspec.json.encode(_legible(msgspec.to_builtins(value, enc_hook=enc_hook)))
    return escape_json(data.decode()).encode()


def write_json(path: Path, value: object) -> None:
    """Write a JSON document atomically, indented for people to read."""
    write_atomically(path, msgspec.json.format(json_bytes(value, str), indent=2) + b"\n")


def _legible(value: object) -> object:
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, dict):
        return {_legible(key): _legible(content) for key, content in value.items()}
    return [_legible(member) for member in value] if isinstance(value, list | tuple) else value


def _plain(value: object) -> object:
    """Paths and numpy scalars for JSON."""
    if isinstance(value, os.PathLike):
        return legible(os.fspath(value))
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not for JSON")
