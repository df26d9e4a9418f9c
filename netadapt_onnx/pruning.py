"""One cut without any search: by a ratio, by counts, or uniformly down to a budget."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.evaluation import dataset_for
from netadapt_onnx.inspection import Shapes, Source, opened, prepare_output, resources, traced
from netadapt_onnx.model import save
from netadapt_onnx.profilers.cost import Cost, CostModel
from netadapt_onnx.search.budget import Budget, parse_budgets
from netadapt_onnx.search.provenance import provenance, stored_bytes
from netadapt_onnx.search.result import Resources
from netadapt_onnx.search.run import write_atomically
from netadapt_onnx.search.subject import require_prunable
from netadapt_onnx.surgery import (
    Group,
    KeptIndices,
    Trace,
    Verification,
    moments,
    original_targets,
    plan_of,
    read_plan,
    reconstruct,
    resize,
    select,
    verify,
)
from netadapt_onnx.surgery.ties import Array

Counts = dict[str, int]
# As many as the measurements behind least squares used; more change little.
CALIBRATION_SAMPLES = 1024
COUNTED = ("macs", "params", "size", "memory")


@dataclass(frozen=True)
class PruneResult:
    """`groups`: channels before and after; `verify`, `model`: None where not asked for; `met`: every budget holds."""

    before: Resources
    after: Resources
    groups: Mapping[str, tuple[int, int]]
    verify: Verification | None
    model: Path | None
    met: bool
    note: str = ""


def prune(
    model: Source,
    output: str | os.PathLike[str] | None = None,
    *,
    ratio: float | None = None,
    keep: Mapping[str, int | float | str] | None = None,
    budget: Iterable[str] | str | None = None,
    plan: str | os.PathLike[str] | None = None,
    criterion: str = "l2",
    step: int | None = None,
    data: str | os.PathLike[str] | None = None,
    check: bool = False,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
) -> PruneResult:
    """Remove the channels that matter least, with everything coupled to them, and write the smaller model.

    One of: `ratio`, the share of channels to remove from every prunable group; `keep`, for each named group a count or
    a share of its channels as "0.5x"; `budget`, a uniform cut until it holds ("macs=0.5x"); `plan`, a file that names
    counts or channels. Counts are multiples of `step` (by default, of each group's structural step). The cut that was
    made is written beside the model as `NAME.plan.toml`, to be edited and replayed on the original. With `data`, what
    is left of each consumer is solved by least squares to put out what it did (no labels, no torch). `check` proves
    that pruned equals masked; without `output` that is always done. A model that fails the proof is not written.
    Raises NetadaptError if nothing can be pruned.
    """
    if sum(way is not None and way != {} for way in (ratio, keep, budget, plan)) != 1:
        raise NetadaptError("how much to prune?", hint="give one of --ratio, --keep, --budget and --plan", code="usage")
    source = opened(model)
    if output is not None:
        prepare_output(Path(output), overwrite, source, data, plan)
        prepare_output(plan_file(Path(output)), overwrite, source, data, plan)
    found = traced(source, shapes, batch_size)
    require_prunable(source, found)
    groups = list(found.prunable)
    count = CostModel(found.folded.proto)
    dense = count(found.folded.shapes)
    metadata = provenance(source, command="prune")
    note, met = "", True
    planned: dict[str, Array] | None = None
    if ratio is not None:
        counts = at_ratio(groups, ratio, step)
    elif keep:
        counts = at_counts(found, keep)
    elif plan is not None:
        planned = read_plan(Path(plan), found, criterion)
        counts = {name: len(indices) for name, indices in planned.items()}
    else:
        extra = stored_bytes(metadata)
        start = dense.resources | {"size": source.size_bytes}
        counts, met, note = _within(found, start, count, parse_budgets(_texts(budget), COUNTED), step, extra)
    kept = select(found, counts, criterion) if planned is None else planned
    small = resize(found, kept)
    proof = verify(found, kept, pruned=small) if check or output is None else None
    if data is not None:
        small = _reconstructed(found, kept, Path(data))
    written = None
    if output is not None and (proof is None or passed(proof)):
        written = save(small, output, metadata=metadata, overwrite=overwrite)
        write_atomically(plan_file(written), plan_of(kept).encode())
    after = resources(
        count(found.resized_shapes(kept)), small.ByteSize() if written is None else written.stat().st_size
    )
    return PruneResult(
        before=resources(dense, source.size_bytes),
        after=after,
        groups={g.name: (g.channels, counts.get(g.name, g.channels)) for g in groups},
        verify=proof,
        model=written,
        met=met,
        note=note,
    )


def plan_file(model: Path) -> Path:
    """Where `prune` writes the plan of the model that it writes."""
    return model.with_name(f"{model.name.removesuffix('.onnx')}.plan.toml")


def _reconstructed(found: Trace, kept: KeptIndices, data: Path) -> onnx.ModelProto:
    inputs = dataset_for(found.folded, data).train.sample(CALIBRATION_SAMPLES).batch(slice(None))
    return reconstruct(found, kept, moments(found, inputs, original_targets(found, inputs)))


def passed(proof: Verification) -> bool:
    """Whether pruned equals masked wherever that could be compared."""
    return proof.exact


def at_ratio(groups: Iterable[Group], ratio: float, step: int | None = None) -> Counts:
    """Counts when `ratio` of every group goes: max(floor, step * ceil((1 - ratio) * channels / step))."""
    if not 0 <= ratio < 1:
        raise NetadaptError(f"ratio {ratio:g} is not in [0, 1): it is the share of channels to remove", code="usage")
    return {g.name: _rounded(g, (1 - ratio) * g.channels, step) for g in groups}


def at_counts(found: Trace, keep: Mapping[str, int | float | str]) -> Counts:
    """Counts as given by name; a share ("0.5x", or a float below 1) is rounded up to the group's structural step."""
    counts: Counts = {}
    for name, value in keep.items():
        group = found.group(name)
        if not group.prunable:
            raise NetadaptError(f"group '{name}' cannot be pruned: {group.reason}", code="not-prunable")
        counts[name] = _count(group, value)
    return counts


def _count(group: Group, value: int | float | str) -> int:
    text = str(value)
    wrong = NetadaptError(
        f"--keep {group.name}={text}: not a count of {group.channels} channels",
        hint=f"from {group.floor} to {group.channels} in steps of {group.step}, or a share such as 0.5x",
        code="usage",
    )
    try:
        if text.endswith("x") or (isinstance(value, float) and value < 1):
            share = float(text.removesuffix("x"))
            if not 0 < share <= 1:
                raise wrong
            return _rounded(group, share * group.channels)
        count = int(text)
    except ValueError as error:
        raise wrong from error
    if count % group.step or not group.floor <= count <= group.channels:
        raise wrong
    return count


def _rounded(group: Group, channels: float, step: int | None = None) -> int:
    multiple = math.lcm(step or 1, group.step)
    return min(group.channels, max(group.floor, multiple * math.ceil(channels / multiple - 1e-9)))


def _texts(budget: Iterable[str] | str | None) -> list[str]:
    return [budget] if isinstance(budget, str) else list(budget or [])


def _within(
    found: Trace,
    original: Mapping[str, int],
    count: CostModel,
    budgets: tuple[Budget, ...],
    step: int | None,
    extra: int,
) -> tuple[Counts, bool, str]:
    """The largest uniform cut's counts that meet every budget, whether it does, and what to say about it.

    `original` are the resources that relative budgets are shares of; a file is `extra` bytes larger than its graph.
    """
    groups = found.prunable

    def cost_at(counts: Counts) -> dict[str, int]:
        now = _cost_at(found, count, counts).resources
        return now | {"size": now["size"] + extra}

    def holds(counts: Counts) -> bool:
        now = cost_at(counts)
        return all(now[b.resource] <= b.limit(original[b.resource]) for b in budgets)

    shares = sorted({n / g.channels for g in groups for n in range(g.channels + 1)}, reverse=True)
    ladder = [{g.name: _rounded(g, share * g.channels, step) for g in groups} for share in shares]
    text = ", ".join(map(str, budgets))
    if holds(ladder[0]):
        return ladder[0], True, f"nothing to do: the model meets {text} already"
    low, high = 1, len(ladder) - 1
    if not holds(ladder[-1]):
        now = cost_at(ladder[-1])
        reached = ", ".join(f"{b.resource}={now[b.resource] / original[b.resource]:.3f}x" for b in budgets)
        return ladder[-1], False, f"the smallest model misses {text}: it reaches {reached}"
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(ladder[middle]) else (middle + 1, high)
    return ladder[low], True, ""


def _cost_at(found: Trace, count: CostModel, counts: Counts) -> Cost:
    # Which channels go does not change the cost.
    return count(found.resized_shapes({name: np.arange(n) for name, n in counts.items()}))
