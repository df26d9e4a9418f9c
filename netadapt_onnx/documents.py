"""The one JSON document that a command prints or writes: `schema`, `ok`, the result's fields, and the error if any."""

from __future__ import annotations

import os

import msgspec

from netadapt_onnx.errors import NetadaptError, legible, printable

SCHEMA = 1


def one_line(text: str) -> str:
    """Text as it may stand on one line of any stream."""
    return printable(" ".join(text.split()))


def error_fields(code: str, message: str, hint: str) -> dict[str, str]:
    """The `error` of a document."""
    return {"code": one_line(code), "message": one_line(message), "hint": one_line(hint)}


def document(result: object, ok: bool, error: NetadaptError | None = None) -> str:
    """A frozen result as a document. NaN and infinity become null, which is what JSON has for them."""
    body = msgspec.to_builtins(result, enc_hook=_plain)
    if error is not None:
        body = {**body, "error": error_fields(error.code, error.message, error.hint)}
    return msgspec.json.format(msgspec.json.encode({"schema": SCHEMA, "ok": ok, **body}), indent=2).decode()


def _plain(value: object) -> object:
    """Paths and numpy scalars for JSON."""
    if isinstance(value, os.PathLike):
        return legible(os.fspath(value))
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not for JSON")
