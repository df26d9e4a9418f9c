"""Plans: what a cut keeps, as a TOML file that people can edit and replay on the original model."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from netadapt_onnx.common.escape import escape_joined, toml_string
from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.surgery.criteria.scores import Criterion
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.cut import KeptIndices
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.plan_state_dict import digest_of, parsed, written
from netadapt_onnx.surgery.tensor_slices import StateSlices
from netadapt_onnx.surgery.trace import Trace

HEADER = """\
# What to keep of each group of channels: a count (the criterion chooses which) or a list of channel indices.
# Groups left out stay whole; residual branches that [branches] names go.
# Replay it on the original model: netadapt-onnx prune MODEL --plan THIS -o OUT
"""


def template(trace: Trace) -> str:
    """Write a plan that keeps everything: each group with the counts that it can keep, pinned groups as comments."""
    return HEADER + "\n[groups]\n" + "".join(_template_lines(group) for group in trace.groups)


def _template_lines(group: Group) -> str:
    name = toml_string(group.name)
    names = ", ".join(group.layers[:4]) + (f" and {len(group.layers) - 4} more" if len(group.layers) > 4 else "")
    layers = escape_joined(names)
    about = f"# {group.channels} channels in steps of {group.step}, at least {group.floor}; layers: {layers}\n"
    if group.prunable:
        return f"\n{about}{name} = {group.channels}\n"
    return f"\n# cannot be pruned: {escape_joined(group.reason or '')}\n# {name} = {group.channels}\n"


def plan_of(keep: KeptIndices, removed: Collection[str] = (), slices: StateSlices | None = None) -> str:
    """Write the plan of a cut: what each group keeps, in the model without the branches `removed`, and each tensor."""
    groups = {name: np.asarray(indices).tolist() for name, indices in keep.items()}
    lines = [f"{toml_string(name)} = {indices}\n" for name, indices in groups.items()]
    branches = f"\n[branches]\nremoved = [{', '.join(map(toml_string, sorted(removed)))}]\n" if removed else ""
    section = "" if slices is None else "\n" + written(slices, digest_of(groups, list(removed)))
    return HEADER + branches + "\n[groups]\n" + "".join(lines) + section


def read_state_slices(file: Path) -> StateSlices:
    """Read what stays of each tensor of the original model.

    Raises:
        NetadaptError: For a file that is no plan, and for one that does not say it, or said it before it was edited.
    """
    content = _content(file)
    return parsed(file, content, digest_of(content["groups"], list(read_removed(file))))


def read_removed(file: Path) -> tuple[str, ...]:
    """Read the residual branches that a plan removes. Raises NetadaptError for a file that is no plan."""
    branches = _content(file).get("branches", {})
    removed = branches.get("removed", []) if isinstance(branches, Mapping) else None
    if (
        not isinstance(removed, list)
        or not set(branches) <= {"removed"}
        or not all(isinstance(n, str) for n in removed)
    ):
        raise NetadaptError(f"{file}: [branches] holds one list, removed, of names", code="bad-plan")
    return tuple(removed or ())


def read_plan(file: Path, trace: Trace, criterion: str | Criterion = "l2") -> dict[str, Array]:
    """Read the channels that a plan keeps of each group.

    Args:
        file: The plan.
        trace: The model without the branches that the plan removes (`read_removed`).
        criterion: Chooses the channels where the plan holds a count.

    Raises:
        NetadaptError: For a file that is no plan, and for groups, counts or indices that do not fit the model.
    """
    entries = _content(file)["groups"]
    counts: dict[str, int] = {}
    keep: dict[str, Array] = {}
    for name, value in entries.items():
        group = trace.group(name)
        if isinstance(value, list) and all(type(index) is int and abs(index) < 2**63 for index in value):
            keep[name] = np.unique(np.array(value, np.int64))
            if len(keep[name]) < len(value):
                raise NetadaptError(f"{file}: group '{name}' lists a channel twice", code="bad-plan")
        elif type(value) is int and group.floor <= value <= group.channels:
            counts[name] = value
        else:
            raise NetadaptError(
                f"{file}: group '{name}' keeps {value!r}",
                hint=f"a count from {group.floor} to {group.channels} or a list of channel indices",
                code="bad-plan",
            )
    chosen = select(trace, counts, criterion) | keep
    trace.copies(chosen)  # says what cannot be cut so
    return chosen


def _content(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NetadaptError(f"{file}: no such file", code="missing-file") from error
    except UNREADABLE as error:
        raise NetadaptError(f"{file} is not TOML: {error}", code="bad-plan") from error
    if not set(content) <= {"groups", "branches", "state_dict"} or not isinstance(content.get("groups"), Mapping):
        raise NetadaptError(
            f"{file} is no plan: it holds one table, [groups], and may hold [branches] and [state_dict]",
            code="bad-plan",
        )
    return content
