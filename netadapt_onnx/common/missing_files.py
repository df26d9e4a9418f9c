"""Errors about files and folders that are not there, with the nearest name that is."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from netadapt_onnx.errors import NetadaptError

NO_FILE = "no such file"
# So much of a name has to be right.
LEAST_SIMILARITY = 0.6
# So many names of a folder are compared.
MOST_NAMES = 10_000


def missing_file(
    path: str | os.PathLike[str],
    *,
    flag: str = "",
    what: str = NO_FILE,
    otherwise: str = "",
    code: str = "missing-file",
) -> NetadaptError:
    """An error to be raised.

    Args:
        path: What is missing; a folder where a file was expected is called that.
        flag: The option that named it.
        what: What is said of it.
        otherwise: The hint where no name that exists is near.
        code: The error's code.
    """
    named = f"{flag} {path}" if flag else f"{path}"
    with suppress(OSError, ValueError):
        if what == NO_FILE and Path(path).is_dir():
            return NetadaptError(f"{named} is a folder", hint="name a file", code=code)
    return NetadaptError(f"{named}: {what}", hint=nearest_path(path, otherwise), code=code)


def nearest_path(path: str | os.PathLike[str], otherwise: str = "") -> str:
    """A hint: the existing path that is nearest to a missing one, or else `otherwise`."""
    with suppress(OSError, ValueError):
        corrected = _corrected(Path(path))
        if corrected is not None:
            return f"did you mean {corrected}?"
    return otherwise


def _corrected(path: Path) -> Path | None:
    """The path with every part that does not exist replaced by the nearest that does; None if one has none."""
    place = Path(path.anchor)
    for number, part in enumerate(path.parts[1:] if path.anchor else path.parts, 1):
        if not (place / part).exists():
            is_last = number + bool(path.anchor) == len(path.parts)
            entries = islice(os.scandir(place), MOST_NAMES)
            names = [entry.name for entry in entries if is_last or entry.is_dir()]
            nearest = _nearest_name(part, names)
            if nearest is None:
                return None
            part = nearest
        place /= part
    return place if place != path else None


def _nearest_name(name: str, names: Iterable[str]) -> str | None:
    """The nearest of some names: one with the same stem and a similar ending, or the likest with the same ending."""
    wrong = Path(name.lower())
    others = {Path(other.lower()): other for other in sorted(names) if not other.startswith(".")}
    endings = {path.suffix: other for path, other in others.items() if path.stem == wrong.stem}
    if not wrong.suffix and endings:
        return next(iter(endings.values()))
    stems = {path.stem: other for path, other in others.items() if path.suffix == wrong.suffix}
    for part, candidates in ((wrong.suffix, endings), (wrong.stem, stems)):
        near = difflib.get_close_matches(part, candidates, 1, LEAST_SIMILARITY)
        if near:
            return candidates[near[0]]
    return None
