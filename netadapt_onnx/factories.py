"""What the user's `FILE.py:FUNCTION` makes: a PyTorch module and its example inputs."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.runtime import one_line

if TYPE_CHECKING:
    import torch


def made(factory: str, shapes: Mapping[str, tuple[int, ...]] | None) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The module and its example inputs by name; a module alone takes random float32 inputs of `shapes`.

    Raises NetadaptError if the file or its function fails, or returns something else.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise NetadaptError(
            "export needs torch", hint="pip install 'netadapt-onnx[adapt]'", code="missing-package"
        ) from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            returned = _function(factory)()
    except NetadaptError:
        raise
    except (Exception, SystemExit) as error:
        raise NetadaptError(f"{factory} failed: {type(error).__name__}: {one_line(error)}", code="factory") from error
    module, example = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if not isinstance(module, torch.nn.Module):
        raise NetadaptError(
            f"{factory} returned {type(module).__name__}",
            hint="return a torch.nn.Module and its example inputs",
            code="factory",
        )
    if example is None:
        if not shapes:
            raise NetadaptError(
                f"{factory} returned no example inputs", hint="return (module, inputs) or give --shape NAME=1x3x224x224"
            )
        generator = torch.Generator().manual_seed(0)
        return module, {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return module, _named(module, example, factory)


def factory_file(factory: str) -> Path:
    """The file of "FILE.py:FUNCTION". Raises NetadaptError if it is not there."""
    file, _, name = factory.rpartition(":")
    if not file or not name:
        raise NetadaptError(f"'{factory}' is not FILE.py:FUNCTION", code="usage")
    if not Path(file).is_file():
        raise NetadaptError(f"{file}: no such file", code="missing-file")
    return Path(file)


def _function(factory: str) -> Any:
    path, name = factory_file(factory), factory.rpartition(":")[2]
    module = _imported(path)
    if not hasattr(module, name):
        raise NetadaptError(f"{path} has no '{name}'", code="factory")
    return getattr(module, name)


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise NetadaptError(f"{path} is not a Python file", code="factory")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # the file's own neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise NetadaptError(f"{path}: {type(error).__name__}: {one_line(error)}", code="factory") from error
    finally:
        sys.path.pop(0)
    return module


def _named(module: torch.nn.Module, example: Any, factory: str) -> dict[str, torch.Tensor]:
    import torch

    if isinstance(example, Mapping):
        named = dict(example)
    else:
        tensors = list(example) if isinstance(example, Sequence) else [example]
        names = list(inspect.signature(module.forward).parameters)
        if len(tensors) > len(names):
            raise NetadaptError(f"{factory}: {len(tensors)} example inputs, forward takes {len(names)}", code="factory")
        named = dict(zip(names, tensors, strict=False))
    wrong = next((name for name, value in named.items() if not isinstance(value, torch.Tensor)), None)
    if wrong is not None or not named:
        raise NetadaptError(f"{factory}: example input '{wrong}' is not a tensor", code="factory")
    return named
