"""Functions of the user's own, named "FILE.py:FUNCTION"."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError, did_you_mean, one_line

# Names under which modules of users' files stand in `sys.modules`.
_own: set[str] = set()


def code_file(name: str) -> Path:
    """The file of "FILE.py:FUNCTION". Raises NetadaptError if it is not there."""
    file, _, function = name.rpartition(":")
    if not file or not function:
        raise NetadaptError(f"'{name}' is not FILE.py:FUNCTION", code="usage")
    if not Path(file).is_file():
        raise missing_file(file)
    return Path(file)


def called(name: str, *, by_name: bool = False) -> Any:
    """What the function returns; what it prints goes to stderr. Raises NetadaptError if the file or it fails.

    With `by_name` the file's module can be imported by its name from then on, which torch's exporter does with what it
    traces; without, workers get functions of it by value, since they would look for the name.
    """
    try:
        path, function = code_file(name), name.rpartition(":")[2]
        with contextlib.redirect_stdout(sys.stderr), _importable(path.parent):  # stdout is for results
            module = _imported(path, by_name)
            value = getattr(module, function, None)
            if not callable(value):
                names = [name for name, other in vars(module).items() if callable(other)]
                raise NetadaptError(
                    f"{path} has no '{function}'", hint=did_you_mean(function, names, ""), code="factory"
                )
            return value()
    except NetadaptError:
        raise
    except (Exception, SystemExit) as error:
        raise NetadaptError(f"{name} failed: {type(error).__name__}: {one_line(error)}", code="factory") from error


def _imported(path: Path, by_name: bool) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise NetadaptError(f"{path} is not a Python file", code="factory")
    module = importlib.util.module_from_spec(spec)
    if by_name and (path.stem in _own or path.stem not in sys.modules):
        _own.add(path.stem)
        sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        if sys.modules.get(path.stem) is module:
            del sys.modules[path.stem]
        raise NetadaptError(f"{path}: {type(error).__name__}: {one_line(error)}", code="factory") from error
    return module


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The file's neighbours come first on the import path while its code runs, and last from then on.

    Its functions import them later too, here and in worker processes, which take over this path; as the last entry the
    folder hides no package of that name. Whatever else the file does to the path is left alone.
    """
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:  # the first of them: what the file itself inserted may stand in front
            sys.path.remove(entry)
        if entry not in sys.path:
            sys.path.append(entry)
