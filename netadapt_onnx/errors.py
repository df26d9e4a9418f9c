"""The one exception that users see, the hint that most of them need, and errors of a kind."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable


def invalid_data(message: str, hint: str = "") -> NetadaptError:
    """An error of code `invalid-data`, to be raised."""
    return NetadaptError(message, hint=hint, code="invalid-data")


def require_package(module: str, what: str) -> None:
    """Raise NetadaptError (`missing-package`) unless a module of the extra `adapt` can be imported: `what` needs it."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NetadaptError(what, hint="pip install 'netadapt-onnx[adapt]'", code="missing-package") from error


def did_you_mean(name: str, names: Iterable[str], otherwise: str) -> str:
    """A hint: the names nearest to a wrong one, or those that contain it, or else `otherwise`."""
    candidates = list(names)
    near = difflib.get_close_matches(name, candidates, 3) or [n for n in candidates if name.lower() in n.lower()][:3]
    return f"did you mean {' or '.join(near)}?" if near else otherwise


class NetadaptError(Exception):
    """Something the user can act on: what went wrong, where, and what to do about it.

    `code` is a short machine-readable word for `--json`; the command ends with exit code 2.

    >>> error = NetadaptError("Reshape fixes the channels", hint="export it anew", node="flatten")
    >>> str(error), error.code
    ("Reshape fixes the channels (node 'flatten'); export it anew", 'invalid')
    """

    def __init__(self, message: str, *, hint: str = "", node: str = "", code: str = "invalid") -> None:
        super().__init__(message)
        self.message = f"{message} (node '{node}')" if node else message
        self.hint = hint
        self.node = node
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


def is_interruption(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: imports turn it into an ImportError, say, and closing what it broke fails."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def one_line(error: BaseException, limit: int = 300) -> str:
    """The text of any exception as one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
