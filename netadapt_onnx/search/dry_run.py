"""The first iteration of a search without a run: its predictors, measured and forgotten, and what it would try."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from netadapt_onnx.common.progress import Progress
from netadapt_onnx.common.resources import CUSTOM
from netadapt_onnx.graph.original_file import as_given
from netadapt_onnx.profilers.random_widths import RandomWidthModel
from netadapt_onnx.profilers.table.best_counts import best_counts
from netadapt_onnx.profilers.table.original_time import time_original
from netadapt_onnx.search import tables
from netadapt_onnx.search.budget_check.resource_fit import fitted
from netadapt_onnx.search.first_iteration import first_iteration
from netadapt_onnx.search.instruments import open_instruments
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.predictor import ByLayer, Predicted, Predictor
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.result import DryRun
from netadapt_onnx.search.tables import latency_by_layer


def dry_run(prepared: PreparedModel, options: AdaptOptions, progress: Progress) -> DryRun:
    """What the first iteration would try; a table that it needs is measured, and forgotten.

    Args:
        prepared: The model that would be cut.
        options: The options of the search.
        progress: Follows the measurements of a table.

    Returns:
        The proposals with their predicted resources.

    Raises:
        NetadaptError: As for the search itself.
    """
    budgets = options.targets[0]
    predicted: dict[str, Predicted] = {}
    by_layer: dict[str, ByLayer] = {}
    gains: dict[str, float] = {}
    normalised = RandomWidthModel(prepared.trace.folded.proto, prepared.trace.folded.shapes)
    file = as_given(prepared.model, normalised.proto)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_instruments(options, prepared, budgets, purpose=prepared.model.path) as instruments,
    ):
        for device in instruments.devices:
            table = instruments.tables.get(device.resource) or tables.built_table(
                Path(folder),
                prepared.trace,
                instruments.execution,
                options.seed,
                progress,
                device.device,
                device.resource,
            )
            predicted[device.resource] = table.predict
            by_layer[device.resource] = partial(latency_by_layer, table)
            ratio, _ = time_original(table, file, normalised, instruments.execution, device.device)
            gains[device.resource] = ratio.median if ratio is not None and ratio.differs else 1.0
            if any(budget.resource == device.resource for budget in budgets):
                prepared = prepared.aligned(table.staircase.alignment, partial(best_counts, table, prepared.trace))
    for resource, value in instruments.functions.items():
        fit = fitted(prepared.trace, resource, value, options.seed, lambda _, make: make())
        predicted[resource] = fit.predict
        seen = as_given(prepared.model, normalised.proto, always=resource == CUSTOM)
        original = fit.original if seen.proto is None else value(seen.proto)
        gains[resource] = fit.original / original if original else 1.0
    predictor = Predictor(prepared.trace, 0, predicted, prepared.branches, by_layer)
    return first_iteration(prepared, options, predictor, gains)
