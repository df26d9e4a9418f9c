"""Which device a training runs on, and how a graph's tensors come to be there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.settings import Dtype, Settings


def gpu_dtypes() -> tuple[Dtype, ...]:
    """Number types that a CUDA GPU here computes in; none without one.

    bfloat16 only where the hardware has it (compute capability 8.0): emulated it gains nothing.
    """
    if not torch.cuda.is_available():
        return ()
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return ("float32", "bfloat16") if native else ("float32",)


def require(settings: Settings) -> None:
    """Raises NetadaptError if the settings are of a machine with a GPU, and this is none."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise NetadaptError(
            "this training was begun on a GPU, and there is none here",
            hint="go on where there is one, or begin anew",
            code="no-gpu",
        )


def autocast(settings: Settings) -> AbstractContextManager[object]:
    """bfloat16 where the settings say so. The cache of cast weights would only cost: each is used once a step."""
    if settings.dtype == "float32":
        return nullcontext()
    return torch.autocast(settings.device, torch.bfloat16, cache_enabled=False)


def repeatable(settings: Settings) -> AbstractContextManager[object]:
    """On a GPU: no kernels of cuDNN that add in changing order, nor a choice of kernels by timing."""
    if settings.device != "cuda":
        return nullcontext()
    found: AbstractContextManager[object] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True
    )
    return found


def together(arguments: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The inputs of one node, moved to where one of them already is, off the CPU.

    Integers beside floats stay: they tell shapes or positions, and are read where they are.
    """
    given = [value for value in arguments if value is not None]
    device = next((value.device for value in given if value.device.type != "cpu"), None)
    if device is None:
        return list(arguments)
    told = any(value.is_floating_point() for value in given)
    return [value if value is None or (told and _is_integer(value)) else value.to(device) for value in arguments]


def _is_integer(value: Tensor) -> bool:
    return not value.is_floating_point() and value.dtype != torch.bool
