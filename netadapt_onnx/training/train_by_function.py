"""Training by a function of the user's, in the place of our own loop."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch import Tensor

from netadapt_onnx.data.dataset import UserFunctions
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.training.distillation import Teacher
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph


def train_by_function(
    user: UserFunctions,
    proto: onnx.ModelProto,
    teacher: onnx.ModelProto | None,
    *,
    steps: int,
    lr: float,
    seed: int,
) -> onnx.ModelProto:
    """Train a model by calling the user's `training(module, teacher=, steps=, lr=, seed=)`.

    Module and teacher map tensors by input name to tensors by output name.

    Args:
        user: The user's functions, with `training` among them.
        proto: The model, normalised.
        teacher: The original model; None: there is none.
        steps: How many steps the training was asked for.
        lr: The highest learning rate.
        seed: Also set as torch's seed.

    Returns:
        The model with the weights that the function leaves in the module.

    Raises:
        NetadaptError: The function fails (`factory`), or leaves weights that are not finite (`diverged`).
    """
    assert user.training is not None
    module = TorchGraph(proto).train()
    source = None if teacher is None else Teacher(teacher)

    def teacher_outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert source is not None
        return source.raw_outputs(inputs, Settings())

    torch.manual_seed(seed)
    try:
        user.training(module, teacher=None if source is None else teacher_outputs, steps=steps, lr=lr, seed=seed)
    except NetadaptError:
        raise
    except Exception as error:
        raise NetadaptError(
            f"the training function of {user.name} failed: {type(error).__name__}: {one_line(error)}",
            hint="it is called as training(module, teacher=, steps=, lr=, seed=) and changes the module's parameters",
            code="factory",
        ) from error
    broken = next((name for name, value in module.weights.items() if not bool(torch.isfinite(value).all())), None)
    if broken is not None:
        raise NetadaptError(
            f"the training function of {user.name} left weights that are no numbers in '{broken}'", code="diverged"
        )
    return module.write_back(proto)
