"""Training by a function of the user's own."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch import Tensor

from netadapt_onnx.data.dataset import Own
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.training.distillation import Teacher
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph


def trained_by(
    own: Own, proto: onnx.ModelProto, teacher: onnx.ModelProto | Teacher | None, *, steps: int, lr: float, seed: int
) -> onnx.ModelProto:
    """`proto` with the weights that the user's function leaves in the module it is given.

    It is called as `training(module, teacher=, steps=, lr=, seed=)`; module and teacher map tensors by name to such.
    Raises NetadaptError if it fails, or leaves weights that are no numbers.
    """
    assert own.training is not None
    module = TorchGraph(proto).train()
    taught = Teacher(teacher) if isinstance(teacher, onnx.ModelProto) else teacher

    def answer(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert taught is not None
        return taught.put_out(inputs, Settings())

    torch.manual_seed(seed)
    try:
        own.training(module, teacher=None if taught is None else answer, steps=steps, lr=lr, seed=seed)
    except NetadaptError:
        raise
    except Exception as error:
        raise NetadaptError(
            f"the training function of {own.name} failed: {type(error).__name__}: {one_line(error)}",
            hint="it is called as training(module, teacher=, steps=, lr=, seed=) and changes the module's parameters",
            code="factory",
        ) from error
    broken = next((name for name, value in module.weights.items() if not bool(torch.isfinite(value).all())), None)
    if broken is not None:
        raise NetadaptError(
            f"the training function of {own.name} left weights that are no numbers in '{broken}'", code="diverged"
        )
    return module.write_back(proto)
