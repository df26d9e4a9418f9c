"""`slice_state_dict`: the rows and columns of a PyTorch state dict that a cut keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from netadapt_onnx.common.options import File
from netadapt_onnx.errors import NetadaptError, require_package
from netadapt_onnx.surgery.plan import read_state_slices
from netadapt_onnx.surgery.tensor_slices import TensorSlice

if TYPE_CHECKING:
    import torch


def slice_state_dict(plan: File, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut the state dict of the network that a model was exported from as a plan cut the model.

    What it returns fits the network's own class where that is built with the new widths, which are the lengths of the
    tensors that are returned. Values are those of `state_dict`: what reconstruction or training changed in the model is
    not in them. Tensors that the plan does not name stay as they are.

    Args:
        plan: The plan beside a model that `prune` wrote, or that of an iteration of a run.
        state_dict: That of the network that was exported, under the names of the original file's initializers
            (`export` keeps the names and the BatchNorm layers of PyTorch).

    Raises:
        NetadaptError: The plan lacks what is needed or was edited since, the state dict lacks tensors that it names, a
            shape is another one, no rows and columns describe what stays of one, or torch is not installed.

    >>> cut = prune("model.onnx", "narrow.onnx", ratio=0.5)
    >>> weights = to_torch("model.onnx").state_dict()
    >>> smaller = slice_state_dict("narrow.plan.toml", weights)
    >>> list(weights["conv2.weight"].shape), list(smaller["conv2.weight"].shape)
    ([16, 8, 3, 3], [8, 4, 3, 3])
    """
    require_package("torch", "slice_state_dict needs torch")
    slices = read_state_slices(Path(plan))
    _check(plan, slices.tensors, slices.unclear, state_dict)
    # BatchNorm's counters are not in the file: they go with the statistics beside them.
    removed = {*slices.removed, *(f"{name.rpartition('.')[0]}.num_batches_tracked" for name in slices.removed)}
    by_name = dict(slices.tensors)
    places = {_place(state_dict[name]): one for name, one in by_name.items()}
    # A tensor that modules share has one name in the file, and several in the state dict.
    by_name |= {name: places[_place(value)] for name, value in state_dict.items() if _place(value) in places}
    return {
        name: _sliced(value, by_name[name]) if name in by_name else value
        for name, value in state_dict.items()
        if name not in removed
    }


def _place(value: torch.Tensor) -> object:
    """Where a tensor lies in memory; what has no place there is like nothing else."""
    pointer = value.data_ptr() if hasattr(value, "data_ptr") else 0
    return (pointer, tuple(value.shape), value.stride()) if pointer else object()


def _check(
    plan: File, tensors: Mapping[str, TensorSlice], unclear: tuple[str, ...], state_dict: Mapping[str, object]
) -> None:
    """Raise NetadaptError unless a state dict can be cut so."""
    import torch

    split = [name for name in unclear if name in state_dict]
    if split:
        raise NetadaptError(
            f"{plan}: no rows and columns of '{split[0]}' stay: layers, or groups of one, keep different parts",
            hint="`netadapt_onnx.to_torch` trains the cut model itself",
            code="unsupported",
        )
    missing = [name for name in tensors if name not in state_dict]
    if missing:
        prefixes = {key.removesuffix(missing[0]) for key in state_dict if key.endswith(f".{missing[0]}")}
        hint = (
            "`netadapt-onnx export` keeps the names of a trained network's parameters; where it is a constant of the "
            "code, such as an order of channels, the class needs another, and weights are not enough"
        )
        entries = [name for name, one in state_dict.items() if isinstance(one, Mapping) and missing[0] in one]
        if entries:
            hint = f"give the entry '{entries[0]}' of this checkpoint"
        elif len(prefixes) == 1:
            hint = f"remove the prefix '{prefixes.pop()}' from its names"
        raise NetadaptError(
            f"the state dict lacks {len(missing)} of the {len(tensors)} tensors of {plan}, such as '{missing[0]}'",
            hint=hint,
            code="invalid-state-dict",
        )
    for name, one in tensors.items():
        value = state_dict[name]
        if not isinstance(value, torch.Tensor):
            raise NetadaptError(
                f"'{name}' is a {type(value).__name__} in the state dict, not a torch tensor",
                hint="torch.from_numpy makes one of an array",
                code="invalid-state-dict",
            )
        shape = tuple(value.shape)
        if shape != one.shape:
            raise NetadaptError(
                f"'{name}' has shape {shape} in the state dict and {one.shape} in the model that {plan} cuts",
                hint="give the state dict of the network that was exported",
                code="invalid-state-dict",
            )


def _sliced(value: torch.Tensor, one: TensorSlice) -> torch.Tensor:
    import torch

    for axis, kept in one.axes.items():
        value = value.index_select(axis, torch.tensor(kept, device=value.device))
    return value
