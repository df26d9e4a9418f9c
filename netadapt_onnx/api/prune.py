"""One cut without any search: by a ratio, by counts, or uniformly down to a budget."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from netadapt_onnx.api.inspect import Shapes, Source, counted_at, opened, prepare_output, resources, traced
from netadapt_onnx.common.budget import Budget, parse_budgets
from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.resources import Resources
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.load_dataset import load_dataset
from netadapt_onnx.data.sample_shapes import proposing_sizes_of
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import Cost, CostModel
from netadapt_onnx.graph.folding import Folded
from netadapt_onnx.graph.lazy_weights import file_bytes
from netadapt_onnx.graph.loadable import require_planned
from netadapt_onnx.graph.model import Model, load_without_weights, save
from netadapt_onnx.graph.provenance import provenance, stored_bytes
from netadapt_onnx.search.prepared_model import require_prunable
from netadapt_onnx.surgery import (
    MEASURED,
    Choices,
    Criterion,
    Group,
    KeptIndices,
    Trace,
    Verification,
    known_branches,
    original_targets,
    plan_of,
    prove_removal,
    read_plan,
    read_removed,
    reconstruct_in_order,
    resize,
    rewired,
    select,
    traced_without,
    verify,
)
from netadapt_onnx.surgery.criteria.ranking import Block, at_share, counts_after, removal_order
from netadapt_onnx.surgery.groups import resize_io_of
from netadapt_onnx.surgery.obstacles import notes, resize_options
from netadapt_onnx.surgery.states import with_states
from netadapt_onnx.surgery.union_find import Array
from netadapt_onnx.training.criteria import criterion_on

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


@dataclass(frozen=True)
class UntrainableResult(PruneResult):
    """The result for a model that cannot be trained: it has branches or loops, or it cannot be run here."""


def prune(
    model: Source,
    output: str | os.PathLike[str] | None = None,
    *,
    ratio: float | None = None,
    keep: Mapping[str, int | float | str] | None = None,
    budget: Iterable[str] | str | None = None,
    plan: str | os.PathLike[str] | None = None,
    global_: bool = False,
    criterion: str | Criterion = "l2",
    step: int | None = None,
    data: str | os.PathLike[str] | None = None,
    reconstruct: bool | None = None,
    check: bool = False,
    choices: Choices | None = None,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
) -> PruneResult:
    """Remove the channels that matter least, with everything coupled to them, and write the smaller model.

    One of: `ratio`, the share of channels to remove from every prunable group (0 writes the model uncut but normalised:
    constants folded, initializers no longer inputs); `keep`, for each named group a count or
    a share of its channels as "0.5x"; `budget`, a uniform cut until it holds ("macs=0.5x"); `plan`, a file that names
    counts or channels. With `global_` the groups do not share alike: `ratio` is the share of all their channels
    together, `budget` is met by as few as possible, and those go that matter least in the whole model. Counts are
    multiples of `step` (by default, of each group's structural step). The cut that was made is written beside the model
    as `NAME.plan.toml`, to be edited and replayed on the original.

    `criterion` is a name or a function; `taylor`, `fisher` and `activation` look at `data`. With `reconstruct` (the
    default where `data` has no other use) what is left of each consumer is solved by least squares to put out what it
    did (no labels, no torch). `check` proves that pruned equals masked; without `output` that is always done. A model
    that fails the proof is not written. `choices`: whole heads or dimensions of heads, and which inputs and outputs may
    change their shapes. Raises NetadaptError if nothing can be pruned, or data are missing.

    >>> cut = prune("model.onnx", "half.onnx", ratio=0.5, check=True)
    >>> cut.groups
    {'conv1': (8, 4), 'conv2': (16, 8)}
    >>> cut.verify.max_rel_diff < 1e-4
    True
    """
    if sum(way is not None and way != {} for way in (ratio, keep, budget, plan)) != 1:
        raise NetadaptError("how much to prune?", hint="give one of --ratio, --keep, --budget and --plan", code="usage")
    if global_ and ratio is None and budget is None:
        raise NetadaptError("--global ranks all groups together", hint="give --ratio or --budget with it", code="usage")
    if reconstruct is None:
        reconstruct = data is not None and criterion not in MEASURED
    _check_data(data, criterion, reconstruct)
    # What is run, or measured in bytes before it is there, is held in memory as a whole.
    whole_in_memory = check or output is None or data is not None or budget is not None or plan is not None
    if isinstance(model, Model) or whole_in_memory or not isinstance(criterion, str):
        source = opened(model)
    else:
        source = load_without_weights(model, hashed=True)
    if output is not None:
        prepare_output(Path(output), overwrite, source, data, plan)
        prepare_output(plan_file(Path(output)), overwrite, source, data, plan)
    with proposing_sizes_of(data, source.proto, shapes, batch_size):
        found = traced(source, shapes, batch_size, choices, in_place=source is not model)
    if ratio != 0:  # which writes the model normalised, prunable or not
        require_prunable(source, found)
    count = CostModel(found.flat.proto)
    dense = counted_at(found, count, found.flat.shapes)
    removed = known_branches(found, read_removed(Path(plan)), str(plan)) if plan is not None else frozenset()
    whole = found
    if removed:
        prove_removal(found.folded, removed)
        found = traced_without(found, removed)
        count = CostModel(found.flat.proto)
    groups = list(found.prunable)
    metadata = provenance(source, command="prune")
    note, met = f"without {', '.join(sorted(removed))}" if removed else "", True
    planned: dict[str, Array] | None = None
    samples = None if data is None else load_dataset(found.folded, data, scored=criterion in ("taylor", "fisher")).train
    by = criterion_on(criterion, samples)
    order = removal_order(found, by, step) if global_ else None
    if ratio is not None:
        counts = at_ratio(groups, ratio, step) if order is None else at_share(found, order, _share(ratio))
    elif keep:
        counts = at_counts(found, keep)
    elif plan is not None:
        planned = read_plan(Path(plan), found, by)
        counts = {name: len(indices) for name, indices in planned.items()}
    else:
        extra = stored_bytes(metadata)
        start = dense.resources | {"size": source.size_bytes}
        rungs = _uniform(groups, step) if order is None else _ranked(found, order)
        counts, met, note = _within(found, rungs, start, count, parse_budgets(_texts(budget), COUNTED), extra)
    kept = select(found, counts, by) if planned is None else planned
    small, planned_shapes = resize(found, kept), found.resized_shapes(kept)
    interface = found.folded.interface(planned_shapes)
    require_planned(small, interface)
    proof = verify(found, kept, pruned=small) if check or output is None else None
    if reconstruct and samples is not None:
        small = _reconstructed(whole, found, kept, samples)
    written = None
    if output is not None and (proof is None or passed(proof)):
        written = save(small, output, metadata=metadata, overwrite=overwrite, planned=interface)
        write_atomically(plan_file(written), plan_of(kept, removed).encode())
    after = resources(count(planned_shapes), file_bytes(small) if written is None else written.stat().st_size)
    untrainable = found.folded.unrunnable or found.folded.unrun or found.bodies or found.flat.untraced
    made = UntrainableResult if untrainable else PruneResult
    return made(
        before=resources(dense, source.size_bytes),
        after=after,
        groups={g.name: (g.channels, counts.get(g.name, g.channels)) for g in groups},
        verify=proof,
        model=written,
        met=met,
        note="; ".join(filter(None, [note, *notes(found), *_doubts(found.folded, proof)])),
    )


def _doubts(folded: Folded, proof: Verification | None) -> list[str]:
    """What the result rests on besides the rules."""
    said = [f"not proven: {folded.unrunnable}"] if folded.unrunnable and proof is None else []
    said += folded.unfinished
    if folded.unrun and proof is not None:  # `verify` refuses the proof where shapes are assumed
        said.append(f"proven with random values for what cannot be run here: {', '.join(sorted(folded.unrun))}")
    if folded.assumed:
        said.append(f"assumed to have the shape of its input: {', '.join(folded.assumed)}")
    if folded.fixed:
        said.append(f"the result takes the given sizes only of {', '.join(folded.fixed)}: constants depend on them")
    return said


def plan_file(model: Path) -> Path:
    """Where `prune` writes the plan of the model that it writes."""
    return model.with_name(f"{model.name.removesuffix('.onnx')}.plan.toml")


def _check_data(data: str | os.PathLike[str] | None, criterion: str | Criterion, reconstruct: bool) -> None:
    """Raise NetadaptError if data are missing, or if they would not be looked at."""
    measured = criterion in MEASURED
    if data is None and (measured or reconstruct):
        what = f"--criterion {criterion}" if measured else "--reconstruct"
        raise NetadaptError(f"{what} needs inputs", hint="give --data with x_train", code="usage")
    if data is not None and not measured and not reconstruct:
        hint = f"add --reconstruct, or a criterion that looks at data: {', '.join(MEASURED)}"
        raise NetadaptError("nothing looks at --data", hint=hint, code="usage")


def _reconstructed(whole: Trace, found: Trace, kept: KeptIndices, samples: Split) -> onnx.ModelProto:
    """Cut `found`, which is `whole` or what is left of it without some branches."""
    inputs = samples.sample(CALIBRATION_SAMPLES).batch(slice(None))
    changed = rewired(whole.folded, found.folded)
    return reconstruct_in_order(found, kept, inputs, original_targets(whole, inputs), changed)


def passed(proof: Verification) -> bool:
    """Whether pruned equals masked wherever that could be compared."""
    return proof.exact


def at_ratio(groups: Iterable[Group], ratio: float, step: int | None = None) -> Counts:
    """Counts when `ratio` of every group goes: max(floor, step * ceil((1 - ratio) * channels / step))."""
    share = 1 - _share(ratio)
    return {g.name: _rounded(g, share * g.channels, step) for g in groups}


def _share(ratio: float) -> float:
    if not 0 <= ratio < 1:
        raise NetadaptError(f"ratio {ratio:g} is not in [0, 1): it is the share of channels to remove", code="usage")
    return ratio


def at_counts(found: Trace, keep: Mapping[str, int | float | str]) -> Counts:
    """Counts as given by name; a share ("0.5x", or a float below 1) is rounded up to the group's structural step."""
    counts: Counts = {}
    for name, value in keep.items():
        group = found.group(name)
        if not group.prunable:
            states = resize_io_of(with_states(found).group(name))
            hint = f"let the states change their shapes with it: {resize_options(states)}" if states else ""
            raise NetadaptError(f"group '{name}' cannot be pruned: {group.reason}", hint=hint, code="not-prunable")
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


@dataclass(frozen=True)
class _Rungs:
    """Cuts from none to the most, each removing more than the one before."""

    length: int
    counts: Callable[[int], Counts]


def _uniform(groups: Sequence[Group], step: int | None) -> _Rungs:
    """Every group keeps the same share."""
    shares = sorted({n / g.channels for g in groups for n in range(g.channels + 1)}, reverse=True)
    return _Rungs(len(shares), lambda rung: {g.name: _rounded(g, shares[rung] * g.channels, step) for g in groups})


def _ranked(found: Trace, order: Sequence[Block]) -> _Rungs:
    """One block of channels after the other, the least important first."""
    return _Rungs(len(order) + 1, lambda rung: counts_after(found, order[:rung]))


def _within(
    found: Trace,
    rungs: _Rungs,
    original: Mapping[str, int],
    count: CostModel,
    budgets: tuple[Budget, ...],
    extra: int,
) -> tuple[Counts, bool, str]:
    """The counts of the first rung that meets every budget, whether one does, and what to say about it.

    `original` are the resources that relative budgets are shares of; a file is `extra` bytes larger than its graph.
    """

    def cost_at(counts: Counts) -> dict[str, int]:
        now = _cost_at(found, count, counts).resources
        return now | {"size": now["size"] + extra}

    def holds(counts: Counts) -> bool:
        now = cost_at(counts)
        return all(now[b.resource] <= b.limit(original[b.resource]) for b in budgets)

    text = ", ".join(map(str, budgets))
    if holds(rungs.counts(0)):
        return rungs.counts(0), True, f"nothing to do: the model meets {text} already"
    low, high = 1, rungs.length - 1
    smallest = rungs.counts(high)
    if not holds(smallest):
        now = cost_at(smallest)
        reached = ", ".join(f"{b.resource}={now[b.resource] / original[b.resource]:.3f}x" for b in budgets)
        return smallest, False, f"the smallest model misses {text}: it reaches {reached}"
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(rungs.counts(middle)) else (middle + 1, high)
    return rungs.counts(low), True, ""


def _cost_at(found: Trace, count: CostModel, counts: Counts) -> Cost:
    # Which channels go does not change the cost.
    return count(found.resized_shapes({name: np.arange(n) for name, n in counts.items()}))
