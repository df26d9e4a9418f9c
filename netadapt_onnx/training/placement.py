"""The device that a training runs on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.training.settings import Dtype, Settings


def gpu_dtypes() -> tuple[Dtype, ...]:
    """Number types that this machine's CUDA GPU computes in; none without a GPU.

    bfloat16 only where the hardware has it (compute capability 8.0): emulated it gains nothing.
    """
    if not torch.cuda.is_available():
        return ()
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return ("float32", "bfloat16") if native else ("float32",)


def require(settings: Settings) -> None:
    """Raise NetadaptError if the settings are of a machine with a GPU, and this machine has none."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise NetadaptError(
            "this training was begun on a GPU, and there is none here",
            hint="go on where there is one, or begin anew",
            code="no-gpu",
        )


def autocast(settings: Settings) -> AbstractContextManager[object]:
    """A context that computes in bfloat16 where the settings say so; no cache, for each weight is cast once a step."""
    if settings.dtype == "float32":
        return nullcontext()
    return torch.autocast(settings.device, torch.bfloat16, cache_enabled=False)


def repeatable(settings: Settings) -> AbstractContextManager[object]:
    """A context without kernels of cuDNN that add in changing order, nor a choice of kernels by timing."""
    if settings.device != "cuda":
        return nullcontext()
    flags: AbstractContextManager[object] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True
    )
    return flags


def together(arguments: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The inputs of one node on one device: that of an input that is not on the CPU, if there is one.

    Integers beside floats stay where they are: they are shapes or positions, which Python reads.
    """
    tensors = [value for value in arguments if value is not None]
    device = next((value.device for value in tensors if value.device.type != "cpu"), None)
    if device is None:
        return list(arguments)
    has_floats = any(value.is_floating_point() for value in tensors)
    return [value if value is None or (has_floats and _is_integer(value)) else value.to(device) for value in arguments]


def _is_integer(value: Tensor) -> bool:
    return not value.is_floating_point() and value.dtype != torch.bool
