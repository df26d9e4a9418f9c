"""What the user's `FILE.py:FUNCTION` makes: a PyTorch module and its example inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from netadapt_onnx.common.user_code import called
from netadapt_onnx.errors import NetadaptError

if TYPE_CHECKING:
    import torch


def module_and_inputs(
    factory: str, shapes: Mapping[str, tuple[int, ...]] | None
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The module and its example inputs by name; a module alone takes random float32 inputs of `shapes`.

    Raises NetadaptError if the file or its function fails, or returns something else.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise NetadaptError(
            "export needs torch", hint="pip install 'netadapt-onnx[adapt]'", code="missing-package"
        ) from error
    returned = called(factory, by_name=True)
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
