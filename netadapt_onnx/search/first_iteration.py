"""The proposals of a search's first iteration, with their predicted resources."""

from __future__ import annotations

from collections.abc import Mapping

from netadapt_onnx.search.branch_choices import branch_importances
from netadapt_onnx.search.knapsack import ascending, ceilings_of, solve
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.predictor import Predictor
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.proposals import Amounts, Goal, Proposer
from netadapt_onnx.search.result import DryRun, Planned
from netadapt_onnx.search.schedule import Schedule
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
    driver = max(limits, key=lambda name: current[name] / limits[name])
    notes = ()
    if all(current[name] <= limit for name, limit in limits.items()):
        enough = any(gains.get(name, 1.0) * original[name] <= limits[name] < original[name] for name in limits)
        why = "normalising alone meets the budget" if enough else "the model is within its budget already"
        return DryRun(driver, limits[driver], current, (), (), (why,))
    if options.strategy == "knapsack":
        return _first_round(prepared, options, predict, current, limits)
    first = options.targets[0][0].resource
    schedule = Schedule(options.first_reduction(original[first]), options.decay, options.reduction_of)
    target = schedule.target(1, current[driver], current[driver], limits[driver])
    proposals = Proposer(prepared.choices, predict).cuts(prepared.widths, Goal(driver, target, current, limits))
    planned = tuple(Planned(p.group, (prepared.widths[p.group], p.channels), p.resources) for p in proposals)
    proposing = {p.group for p in proposals}
    return DryRun(driver, target, current, planned, tuple(n for n in prepared.widths if n not in proposing), notes)


def _first_round(
    prepared: PreparedModel, options: AdaptOptions, predict: Predictor, current: Amounts, limits: Mapping[str, float]
) -> DryRun:
    """The first round of the knapsack strategy: the groups that it cuts, all of them at once."""
    criterion = criterion_on(options.criterion, None if prepared.data is None else prepared.data.train, options.seed)
    ceilings = ceilings_of(current, limits)
    widths = prepared.widths
    scores = ascending(prepared.trace, criterion)
    scores |= branch_importances(prepared.branches, scores)
    chosen = solve(prepared.choices, widths, scores, predict, ceilings)
    driver = max(limits, key=lambda name: current[name] / limits[name])
    resources = predict(chosen)
    planned = tuple(Planned(name, (widths[name], n), resources) for name, n in chosen.items() if n != widths[name])
    same = tuple(name for name, n in chosen.items() if n == widths[name])
    return DryRun(driver, ceilings[driver], current, planned, same, ("all of them at once",))
