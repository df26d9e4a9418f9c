"""One cut without any search: by a ratio, by counts, or uniformly down to a budget."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import onnx

from netadapt_onnx.api.options import PruneOptions
from netadapt_onnx.api.source import Source, open_model, prepare_output
from netadapt_onnx.common.budget import parse_budgets
from netadapt_onnx.common.escape import shell_command
from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.options import File, from_keywords
from netadapt_onnx.common.provenance import provenance, stored_bytes
from netadapt_onnx.common.resources import COUNTED, Resources, amounts
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import CostModel
from netadapt_onnx.graph.loadable import require_planned
from netadapt_onnx.graph.model import Model, load_without_weights, save
from netadapt_onnx.graph.shapes import Shapes
from netadapt_onnx.graph.weightless import file_bytes
from netadapt_onnx.surgery.criteria.ranking import at_share, removal_order
from netadapt_onnx.surgery.criteria.scores import OBS, Criterion
from netadapt_onnx.surgery.criteria.selection import MEASURED, select
from netadapt_onnx.surgery.cut import KeptIndices
from netadapt_onnx.surgery.kept_counts import (
    at_counts,
    at_ratio,
    checked_ratio,
    ranked_cuts,
    uniform_cuts,
    within_budget,
)
from netadapt_onnx.surgery.obstacles import cost_at, notes, require_prunable
from netadapt_onnx.surgery.plan import plan_of, read_plan, read_removed
from netadapt_onnx.surgery.residual_branches import check_branches, prove_removal, rewired, traced_without
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.tensor_slices import lost_constants, state_slices
from netadapt_onnx.surgery.trace import Trace, trace_model
from netadapt_onnx.surgery.verify.prove import Verification, verify

if TYPE_CHECKING:
    from netadapt_onnx.api.keywords import PruneKeywords
    from netadapt_onnx.data.dataset import Split
    from netadapt_onnx.profilers.table.faster_counts import FasterCounts

# As many as the measurements behind least squares used; more change little.
CALIBRATION_SAMPLES = 1024


@dataclass(frozen=True)
class PruneResult:
    """`groups`: channels before and after; `verify`, `model`: None where not asked for; `met`: every budget holds.

    `warning`: that a table does not say the cut to be faster than the original; it is part of `note`, too.
    """

    before: Resources
    after: Resources
    groups: Mapping[str, tuple[int, int]]
    verify: Verification | None
    model: Path | None
    met: bool
    note: str = ""
    proposal: Proposal | None = None
    warning: str = ""


@dataclass(frozen=True)
class Proposal:
    """Counts near those of a cut that a table predicts to be faster, in the words of `prune`, and their latency.

    Groups that are not named keep all of their channels.
    """

    keep: Mapping[str, int]
    latency_ms: float
    words: str


@dataclass(frozen=True)
class UntrainableResult(PruneResult):
    """The result for a model that cannot be trained: it has branches or loops, or it cannot be run here."""


@dataclass(frozen=True)
class _Cut:
    """The channels to keep of a model, whether every budget holds (`met`), and what to say about it."""

    kept: KeptIndices
    met: bool = True
    note: str = ""


def prune(model: Source, output: File | None = None, **options: Unpack[PruneKeywords]) -> PruneResult:
    """Remove the channels that matter least, with everything coupled to them, and write the smaller model.

    One of: `ratio`, the share of channels to remove from every prunable group (0 writes the model uncut but normalised:
    constants folded, initializers no longer inputs); `keep`, for each named group a count or
    a share of its channels as "0.5x"; `budget`, a uniform cut until it holds ("macs=0.5x"); `plan`, a file that names
    counts or channels. With `global_` the groups do not share alike: `ratio` is the share of all their channels
    together, `budget` is met by as few as possible, and those go that matter least in the whole model. Counts are
    multiples of `step` (by default, of each group's structural step). The cut that was made is written beside the model
    as `NAME.plan.toml`, to be edited and replayed on the original.

    `criterion` is a name or a function; `obs`, `taylor`, `fisher` and `activation` look at `data`. With `reconstruct`
    (the default with `obs`, and where `data` has no other use) what is left of each consumer is solved by least squares
    to put out what it did (no labels, no torch). `check` proves that pruned equals masked; without `output` that is
    always done. A model that fails the proof is not written. `choices`: whole heads or dimensions of heads, and which
    inputs and outputs may change their shapes. Raises NetadaptError if nothing can be pruned, or data are missing.

    >>> cut = prune("model.onnx", "half.onnx", ratio=0.5, check=True)
    >>> cut.groups
    {'conv1': (8, 4), 'conv2': (16, 8)}
    >>> cut.verify.max_rel_diff < 1e-4
    True
    """
    settings = from_keywords(PruneOptions, options)
    _require_one_amount(settings)
    if settings.reconstruct is None:
        # `obs` chooses by what consumers lose once they are solved anew.
        reconstructs = settings.criterion == OBS or settings.criterion not in MEASURED
        settings = replace(settings, reconstruct=settings.data is not None and reconstructs)
    _check_data(settings)
    if output is None:
        settings = replace(settings, check=True)
    source = _open(model, output, settings)
    with _proposing_sizes_of(settings.data, source.proto, settings.shapes, settings.batch_size):
        trace = trace_model(
            source, settings.shapes, settings.batch_size, settings.choices, in_place=source is not model
        )
    if settings.ratio != 0:  # which writes the model normalised, prunable or not
        require_prunable(trace, source.path)
    return _prune(source, trace, output, settings)


def _require_one_amount(options: PruneOptions) -> None:
    """Raise NetadaptError unless how much to remove is said in exactly one way."""
    ratio, budget = options.ratio, options.budget
    if sum(way is not None and way != {} for way in (ratio, options.keep, budget, options.plan)) != 1:
        raise NetadaptError(
            "nothing says how much to prune", hint="give one of --ratio, --keep, --budget and --plan", code="usage"
        )
    if options.global_ and ratio is None and budget is None:
        raise NetadaptError("--global ranks all groups together", hint="give --ratio or --budget with it", code="usage")


def _open(model: Source, output: File | None, options: PruneOptions) -> Model:
    """The model, its outputs checked; weights stay in their file where nothing needs them all at once."""
    # What is run, or measured in bytes before it is there, is held in memory as a whole.
    needs_weights = options.check or not (options.data is options.budget is options.plan is None)
    if isinstance(model, Model) or needs_weights or not isinstance(options.criterion, str):
        source = open_model(model)
    else:
        source = load_without_weights(model, hashed=True)
    if output is not None:
        inputs = (source, options.data, options.plan)
        prepare_output(Path(output), options.overwrite, *inputs)
        prepare_output(plan_file(Path(output)), options.overwrite, *inputs)  # a folder has been refused by now
    return source


def _prune(source: Model, original: Trace, output: File | None, options: PruneOptions) -> PruneResult:
    """Choose the channels of a traced model, cut it, prove the cut and write the result."""
    cost_model = CostModel(original.flat.proto)
    before = cost_at(original, cost_model, original.flat.shapes).to_resources(source.size_bytes)
    removed = frozenset[str]() if options.plan is None else _removed_branches(original, Path(options.plan))
    trace = original
    if removed:
        trace = traced_without(original, removed)
        cost_model = CostModel(trace.flat.proto)
    samples = None if options.data is None else _training_samples(trace, options.data, options.criterion)
    metadata = provenance(source.sha256, command="prune")
    options = replace(options, criterion=_criterion(options.criterion, samples))
    cut = _choose(trace, cost_model, options, before, stored_bytes(metadata))
    small, sizes = resize(trace, cut.kept), trace.resized_shapes(cut.kept)
    interface = trace.folded.interface(sizes)
    require_planned(small, interface)
    proof = verify(trace, cut.kept, pruned=small) if options.check else None
    if options.reconstruct and samples is not None:
        small = _reconstructed(original, trace, cut.kept, samples)
    written = None
    if output is not None and (proof is None or proof.exact):
        written = save(small, output, metadata=metadata, overwrite=options.overwrite, planned=interface)
        slices = state_slices(trace, cut.kept, lost_constants(original, trace))
        write_atomically(plan_file(written), plan_of(cut.kept, removed, slices).encode())
    groups = {g.name: (g.channels, len(cut.kept.get(g.name, range(g.channels)))) for g in trace.prunable}
    after = cost_model(sizes).to_resources(file_bytes(small) if written is None else written.stat().st_size)
    lines = _notes(trace, cut, removed, proof)
    proposal, warning = None, ""
    if options.table is not None:
        latency = _predicted(Path(options.table), source, original, trace, cut.kept, options)
        before, after = replace(before, latency_ms=latency.before_ms), replace(after, latency_ms=latency.after_ms)
        proposal, warning = latency.proposal, latency.warning
        lines += latency.notes
    folded = trace.folded
    untrainable = folded.unrunnable or folded.unrun or trace.subgraphs or trace.flat.untraced
    return (UntrainableResult if untrainable else PruneResult)(
        before=before,
        after=after,
        groups=groups,
        verify=proof,
        model=written,
        met=cut.met,
        note="; ".join(lines),
        proposal=proposal,
        warning=warning,
    )


@dataclass(frozen=True)
class _Latency:
    """The latency before and after a cut by a table, counts that its device likes better, and what to say of them."""

    before_ms: float
    after_ms: float | None = None
    proposal: Proposal | None = None
    warning: str = ""
    notes: tuple[str, ...] = ()


def _predicted(
    file: Path, source: Model, original: Trace, trace: Trace, kept: KeptIndices, options: PruneOptions
) -> _Latency:
    """What a table predicts of a cut.

    A table knows nothing of a model without some of its branches: then there is no latency after the cut.
    """
    from netadapt_onnx.graph.original_file import as_given
    from netadapt_onnx.profilers.table.faster_counts import faster_counts
    from netadapt_onnx.profilers.table.original_time import predict_original
    from netadapt_onnx.profilers.table.predict import Table

    table = Table.load(file, original.folded.proto)
    before_ms = predict_original(table, as_given(source, original.folded.proto), original.folded.shapes).ms
    if trace is not original:
        return _Latency(before_ms, notes=("the table does not predict a model without branches",))
    after_ms, error = table.predict_with_error(trace.resized_shapes(kept))
    counts = {name: len(channels) for name, channels in kept.items() if len(channels) < trace.group(name).channels}
    if not counts:
        return _Latency(before_ms, after_ms)
    # Who names counts wants no fewer channels than that.
    floors = counts if options.keep or options.plan else {}
    better = faster_counts(table, trace, counts, before_ms, floors=floors, step=options.step)
    warning = _slowness(before_ms, after_ms, error)
    if better is None:
        return _Latency(before_ms, after_ms, warning=warning, notes=(warning,) if warning else ())
    proposal = _proposal(trace, better)
    what = "counts near by are faster" if warning else "counts near by keep more channels in less time"
    note = f"{what} ({proposal.latency_ms:.3g} ms): {proposal.words}"
    return _Latency(before_ms, after_ms, proposal, warning, (warning, note) if warning else (note,))


def _slowness(before_ms: float, after_ms: float, error: float) -> str:
    """That a cut is not clearly faster than the original, if it is not; predictions are off by up to `error`."""
    if after_ms * (1 + error) < before_ms:
        return ""
    how = "slower" if after_ms > before_ms else "hardly faster" if after_ms < before_ms else "no faster"
    off = "" if after_ms > before_ms else f", and predictions are up to {error:.1%} off"
    return f"predicted to be {how} than the original: {after_ms:.3g} ms, {before_ms:.3g} before{off}"


def _proposal(trace: Trace, better: FasterCounts) -> Proposal:
    keep = {name: n for name, n in better.counts.items() if n < trace.group(name).channels}
    words = shell_command(word for name, n in keep.items() for word in ("--keep", f"{name}={n}"))
    return Proposal(keep, better.ms, words)


def _choose(trace: Trace, cost_model: CostModel, options: PruneOptions, before: Resources, extra_bytes: int) -> _Cut:
    """The channels to keep of a traced model.

    Args:
        trace: the model.
        cost_model: counts its resources at any widths.
        options: how much to remove, by which criterion.
        before: the resources that relative budgets are shares of.
        extra_bytes: what a written file holds besides the graph.
    """
    criterion, step = options.criterion, options.step
    order = removal_order(trace, criterion, step) if options.global_ else None
    if options.ratio is not None:
        share = checked_ratio(options.ratio)
        counts = at_ratio(trace.prunable, share, step) if order is None else at_share(trace, order, share)
        return _Cut(select(trace, counts, criterion))
    if options.keep:
        return _Cut(select(trace, at_counts(trace, options.keep), criterion))
    if options.plan is not None:
        return _Cut(read_plan(Path(options.plan), trace, criterion))
    cuts = uniform_cuts(trace.prunable, step) if order is None else ranked_cuts(trace, order)
    budget = options.budget or ()
    budgets = parse_budgets(budget if isinstance(budget, str) else tuple(budget), COUNTED)
    chosen = within_budget(trace, cuts, cost_model, amounts(before), budgets, extra_bytes)
    return _Cut(select(trace, chosen.counts, criterion), chosen.met, chosen.note)


def _removed_branches(trace: Trace, plan: Path) -> frozenset[str]:
    """The residual branches that a plan removes. Raises NetadaptError where the model cannot be without them."""
    removed = check_branches(trace, read_removed(plan), str(plan))
    if removed:
        prove_removal(trace.folded, removed)
    return removed


def _notes(trace: Trace, cut: _Cut, removed: frozenset[str], proof: Verification | None) -> list[str]:
    """What to know of a result."""
    branches = f"without {', '.join(sorted(removed))}" if removed else ""
    folded, lines = trace.folded, [*filter(None, [cut.note or branches]), *notes(trace)]
    # What the result rests on besides the rules.
    lines += [f"not proven: {folded.unrunnable}"] if folded.unrunnable and proof is None else []
    lines += folded.unfinished
    if folded.unrun and proof is not None:  # `verify` refuses the proof where shapes are assumed
        lines.append(f"proven with random values for what cannot be run here: {', '.join(sorted(folded.unrun))}")
    if folded.assumed:
        lines.append(f"assumed to have the shape of its input: {', '.join(folded.assumed)}")
    if folded.fixed:
        lines.append(f"the result takes the given sizes only of {', '.join(folded.fixed)}: constants depend on them")
    return lines


def plan_file(model: Path) -> Path:
    """Where `prune` writes the plan of the model that it writes."""
    return model.with_name(f"{model.name.removesuffix('.onnx')}.plan.toml")


# -- data, which only some criteria and the reconstruction look at ----------------------------------------------------


def _check_data(options: PruneOptions) -> None:
    """Raise NetadaptError if data are missing, or if they would not be looked at."""
    data, criterion, reconstruct = options.data, options.criterion, options.reconstruct
    measured = criterion in MEASURED
    if data is None and (measured or reconstruct):
        what = f"--criterion {criterion}" if measured else "--reconstruct"
        raise NetadaptError(f"{what} needs inputs", hint="give --data with x_train", code="usage")
    if data is not None and not measured and not reconstruct:
        hint = f"add --reconstruct, or a criterion that looks at data: {', '.join(MEASURED)}"
        raise NetadaptError("nothing looks at --data", hint=hint, code="usage")


def _proposing_sizes_of(
    data: File | None, proto: onnx.ModelProto, shapes: Shapes | None, batch_size: int
) -> AbstractContextManager[None]:
    """Where what is done inside needs the sizes of open axes, the error proposes those of the samples."""
    if data is None:
        return nullcontext()
    from netadapt_onnx.data.sample_shapes import proposing_sizes_of

    return proposing_sizes_of(data, proto, shapes, batch_size)


def _training_samples(trace: Trace, data: File, criterion: str | Criterion) -> Split:
    from netadapt_onnx.data.load_dataset import load_dataset

    return load_dataset(trace.folded, data, scored=criterion in ("taylor", "fisher")).train


def _criterion(criterion: str | Criterion, samples: Split | None) -> str | Criterion:
    """The criterion, on samples if it looks at any."""
    if criterion not in MEASURED:
        return criterion
    from netadapt_onnx.training.data_criteria import criterion_on

    return criterion_on(criterion, samples)


def _reconstructed(original: Trace, trace: Trace, kept: KeptIndices, samples: Split) -> onnx.ModelProto:
    """Cut `trace`, which is `original` or what is left of it without some branches, and solve each consumer's weights.

    What is left of a consumer puts out what the original one did, as nearly as it can.
    """
    from netadapt_onnx.surgery.reconstruct.gram import original_targets
    from netadapt_onnx.surgery.reconstruct.least_squares import reconstruct_in_order

    inputs = samples.sample(CALIBRATION_SAMPLES).batch(slice(None))
    changed = rewired(original.folded, trace.folded)
    return reconstruct_in_order(trace, kept, inputs, original_targets(original, inputs), changed)
