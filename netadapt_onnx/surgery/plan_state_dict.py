"""The section [state_dict] of a plan: what stays of each tensor of the original, for `slice_state_dict`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from netadapt_onnx.common.escape import shell_command, toml_string
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.surgery.tensor_slices import StateSlices, TensorSlice

COMMENT = """\
# What stays of each tensor of the original model (netadapt_onnx.slice_state_dict reads it): its shape, and by axis the
# positions that stay, or the name of the group whose channels lie along it. Made for the [groups] above as they are.
"""


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shape: tuple[int, ...]
    axes: Mapping[int, str | tuple[int, ...]] = {}


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`plan` is the digest of the groups and branches that it was made for."""

    plan: str
    removed: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    tensors: Mapping[str, _Tensor] = {}


def written(slices: StateSlices, digest: str) -> str:
    """The section in TOML."""
    lines = [COMMENT, "[state_dict]\n", f"plan = {toml_string(digest)}\n"]
    for name, values in (("removed", slices.removed), ("unclear", slices.unclear)):
        lines += [f"{name} = [{', '.join(map(toml_string, values))}]\n"] if values else []
    lines.append("\n[state_dict.tensors]\n")
    for name, one in slices.tensors.items():
        axes = ", ".join(
            f"{axis} = {toml_string(one.groups[axis]) if axis in one.groups else list(kept)}"
            for axis, kept in one.axes.items()
        )
        lines.append(f"{toml_string(name)} = {{ shape = {list(one.shape)}, axes = {{ {axes} }} }}\n")
    return "".join(lines)


def parsed(file: Path, content: Mapping[str, Any], digest: str) -> StateSlices:
    """What the section of a plan says.

    Args:
        file: The plan, for messages.
        content: All of it.
        digest: That of its groups and branches.

    Raises:
        NetadaptError: There is no such section, it is damaged, or the groups were edited after it was written.
    """
    replay = shell_command(["netadapt-onnx", "prune", "MODEL", "--plan", file, "-o", "cut.onnx"])
    hint = f"replay it on the original, and take the plan that is written, cut.plan.toml: {replay}"
    if "state_dict" not in content:
        raise NetadaptError(f"{file} has no section [state_dict]", hint=hint, code="bad-plan")
    try:
        section = msgspec.convert(content["state_dict"], _Section, str_keys=True)
        if section.plan != digest:
            raise NetadaptError(f"{file} was edited after [state_dict] was written", hint=hint, code="bad-plan")
        tensors = {name: _slice(one, content["groups"]) for name, one in section.tensors.items()}
    except (msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
        raise NetadaptError(f"{file}: [state_dict] is damaged: {error}", hint=hint, code="bad-plan") from error
    return StateSlices(tensors, section.removed, section.unclear)


def _slice(tensor: _Tensor, groups: Mapping[str, Any]) -> TensorSlice:
    """What stays of a tensor. Raises KeyError, TypeError or ValueError where a group or a position is not there."""
    axes = {axis: tuple(groups[kept]) if isinstance(kept, str) else kept for axis, kept in tensor.axes.items()}
    for axis, kept in axes.items():
        if not 0 <= axis < len(tensor.shape) or any(not 0 <= i < tensor.shape[axis] for i in kept):
            raise ValueError(f"shape {list(tensor.shape)} has no positions {list(kept)} along axis {axis}")
    return TensorSlice(tensor.shape, axes, {a: g for a, g in tensor.axes.items() if isinstance(g, str)})


def digest_of(groups: Mapping[str, Any], removed: list[str]) -> str:
    """A digest of what a plan keeps."""
    text = json.dumps([groups, sorted(removed)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
