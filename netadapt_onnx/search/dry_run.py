"""The first iteration of a search without a run: its predictors, and what it would try."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from netadapt_onnx.common.progress import Progress
from netadapt_onnx.common.resources import COUNTED, CUSTOM
from netadapt_onnx.graph.original_file import as_given
from netadapt_onnx.profilers.random_widths import RandomWidthModel
from netadapt_onnx.profilers.table.best_counts import best_counts
from netadapt_onnx.profilers.table.original_time import time_original
from netadapt_onnx.search import tables
from netadapt_onnx.search.budget_check.resource_functions import fitted
from netadapt_onnx.search.calibrations import CALIBRATION_SAMPLES
from netadapt_onnx.search.curves import MOST_OPTIONS
from netadapt_onnx.search.first_jump import SHARE
from netadapt_onnx.search.knapsack import ceilings_of, importances_of, losses_of
from netadapt_onnx.search.open_budget_checks import open_instruments
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.predictor import ByLayer, Predicted, Predictor
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.proposals import Amounts, Goal, Proposer, Widths
from netadapt_onnx.search.result import DryRun, Planned
from netadapt_onnx.search.schedule import Schedule
from netadapt_onnx.search.tables import latency_by_layer
from netadapt_onnx.search.target_problem import out_of_reach
from netadapt_onnx.search.width_program import solve
from netadapt_onnx.search.worker import BRANCH_SAMPLES
from netadapt_onnx.surgery.criteria.obs import eliminations
from netadapt_onnx.surgery.reconstruct.gram import own_gram_matrices
from netadapt_onnx.training.data_criteria import criterion_on


def first_iteration(
    prepared: PreparedModel, options: AdaptOptions, predict: Predictor, gains: Mapping[str, float]
) -> DryRun:
    """The proposals of the first iteration.

    Args:
        prepared: The model.
        options: The user's options.
        predict: Predicts resources, in base units.
        gains: By resource, the share that normalising alone leaves of that of the user's file.
    """
    current = predict(prepared.widths)
    original = current | {"size": float(prepared.model.size_bytes)}
    original |= {name: current[name] / gain for name, gain in gains.items()}
    limits = {b.resource: b.limit(original[b.resource]) for b in options.targets[0]}
    if all(current[name] <= limit for name, limit in limits.items()):
        enough = any(gains.get(name, 1.0) * original[name] <= limits[name] < original[name] for name in limits)
        why = "normalising alone meets the budget" if enough else "The model meets its budget already"
        driver = max(limits, key=lambda name: current[name] / limits[name])
        return DryRun(driver, limits[driver], current, (), (), (why,))
    planned = _planned(prepared, options, predict, current, limits, original)
    return replace(planned, notes=(*planned.notes, *_out_of_reach(prepared, predict, limits, original)))


def _out_of_reach(
    prepared: PreparedModel, predict: Predictor, limits: Mapping[str, float], original: Mapping[str, float]
) -> tuple[str, ...]:
    """A note where no widths meet a budget."""
    smallest = predict(prepared.floor)
    too_low = next((name for name, limit in limits.items() if smallest[name] > limit), None)
    if too_low is None:
        return ()
    return (out_of_reach(too_low, smallest[too_low] / original[too_low], is_exact=too_low in COUNTED),)


def _planned(
    prepared: PreparedModel,
    options: AdaptOptions,
    predict: Predictor,
    current: Amounts,
    limits: Mapping[str, float],
    original: Mapping[str, float],
) -> DryRun:
    """What the first iteration of the chosen strategy would try."""
    driver = max(limits, key=lambda name: current[name] / limits[name])
    if options.strategy == "knapsack":
        return _first_round(prepared, options, predict, current, limits)
    if options.strategy == "curves":
        return _curves(prepared, options, predict, current, limits)
    first = options.targets[0][0].resource
    schedule = Schedule(options.first_reduction(original[first]), options.decay, options.reduction_of)
    target = schedule.target(1, current[driver], current[driver], limits[driver])
    proposals = Proposer(prepared.choices, predict).cuts(prepared.widths, Goal(driver, target, current, limits))
    planned = tuple(Planned(p.group, (prepared.widths[p.group], p.channels), p.resources) for p in proposals)
    proposing = {p.group for p in proposals}
    notes: tuple[str, ...] = ()
    if options.begins_with_curves:
        notes = (
            "These are the first proposals of --start original. With --start curves the run first goes "
            f"{SHARE:.0%} of the way at once, to widths that error curves choose",
        )
    return DryRun(driver, target, current, planned, tuple(n for n in prepared.widths if n not in proposing), notes)


def _first_round(
    prepared: PreparedModel, options: AdaptOptions, predict: Predictor, current: Amounts, limits: Mapping[str, float]
) -> DryRun:
    """The first round of the knapsack strategy: the groups that it cuts, all of them at once."""
    train = None if prepared.data is None else prepared.data.train
    criterion = criterion_on(options.criterion_for(has_inputs=train is not None), train, options.seed)
    ceilings = ceilings_of(current, limits)
    widths = prepared.widths
    scores = importances_of(prepared.trace, criterion, prepared.branches)
    chosen = solve(prepared.choices, widths, losses_of(scores), predict, ceilings)
    return _joint(chosen, prepared, predict, current, ceilings, "All of them are cut at once")


def _curves(
    prepared: PreparedModel, options: AdaptOptions, predict: Predictor, current: Amounts, limits: Mapping[str, float]
) -> DryRun:
    """The widths that the error curves alone would choose; residual branches, which only probes can value, stay."""
    assert prepared.data is not None
    samples = ((prepared.data.train, CALIBRATION_SAMPLES), (prepared.data.val, BRANCH_SAMPLES))
    inputs = [split.sample(count, options.seed).batch(slice(None)) for split, count in samples]
    solving, held_out = (own_gram_matrices(prepared.trace, arrays, options.seed) for arrays in inputs)
    ordered = eliminations(prepared.trace, solving, held_out)
    errors = {name: elimination.curve for name, elimination in ordered.items()}
    chosen = solve(prepared.choices, prepared.widths, errors, predict, limits, MOST_OPTIONS)
    note = "All of them are cut at once, by their error curves; the run probes every group and branch first"
    return _joint(chosen, prepared, predict, current, limits, note)


def _joint(
    chosen: Widths,
    prepared: PreparedModel,
    predict: Predictor,
    current: Amounts,
    ceilings: Mapping[str, float],
    note: str,
) -> DryRun:
    """The groups that a strategy cuts, all of them at once."""
    driver = max(ceilings, key=lambda name: current[name] / ceilings[name])
    widths, resources = prepared.widths, predict(chosen)
    planned = tuple(Planned(name, (widths[name], n), resources) for name, n in chosen.items() if n != widths[name])
    same = tuple(name for name, n in chosen.items() if n == widths[name])
    return DryRun(driver, ceilings[driver], current, planned, same, (note,))


def dry_run(
    prepared: PreparedModel, options: AdaptOptions, progress: Progress, tables_beside: Path | None = None
) -> DryRun:
    """What the first iteration would try; a table that it needs is measured.

    Args:
        prepared: The model that would be cut.
        options: The options of the search.
        progress: Follows the measurements of a table.
        tables_beside: The directory of a run to come, beside which measured tables are kept; None: nowhere.

    Returns:
        The proposals with their predicted resources.

    Raises:
        NetadaptError: As for the search itself.
    """
    budgets = options.targets[0]
    predicted: dict[str, Predicted] = {}
    by_layer: dict[str, ByLayer] = {}
    gains: dict[str, float] = {}
    kept: dict[str, Path] = {}
    normalised = RandomWidthModel(prepared.trace.folded.proto, prepared.trace.folded.shapes)
    file = as_given(prepared.model, normalised.proto)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_instruments(options, prepared, budgets, purpose=prepared.model.path) as instruments,
    ):
        for device in instruments.devices:
            table = instruments.tables.get(device.resource)
            if table is None:
                forgotten = tables.table_file(Path(folder), device.resource)
                kept_in = forgotten if tables_beside is None else tables.table_beside(tables_beside, device.resource)
                plan = tables.table_plan(options)
                table = tables.built_table(
                    kept_in, prepared.trace, instruments.execution, plan, progress, device.device
                )
                kept |= {} if tables_beside is None else {device.resource: kept_in}
            predicted[device.resource] = table.predict
            by_layer[device.resource] = partial(latency_by_layer, table)
            ratio, _ = time_original(table, file, normalised, instruments.execution, device.device)
            gains[device.resource] = ratio.median if ratio is not None and ratio.differs else 1.0
            if any(budget.resource == device.resource for budget in budgets):
                prepared = prepared.aligned(table.staircase.alignment, partial(best_counts, table, prepared.trace))
            elif table.staircase.alignment > 1:
                prepared = prepared.preferring(table.staircase.alignment)
    for resource, value in instruments.functions.items():
        fit = fitted(prepared.trace, resource, value, options.seed, lambda _, make: make())
        predicted[resource] = fit.predict
        seen = as_given(prepared.model, normalised.proto, always=resource == CUSTOM)
        original = fit.original if seen.proto is None else value(seen.proto)
        gains[resource] = fit.original / original if original else 1.0
    predictor = Predictor(prepared.trace, 0, predicted, prepared.branches, by_layer)
    planned = first_iteration(prepared, options, predictor, gains)
    return replace(planned, preset=options.preset, options=options.of_preset(), tables=kept)
