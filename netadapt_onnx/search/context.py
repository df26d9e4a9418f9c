"""What all parts of one search read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from netadapt_onnx.common.provenance import provenance, stored_bytes
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.search.budget_check.protocol import BudgetCheck
from netadapt_onnx.search.environment import SearchEnvironment
from netadapt_onnx.search.evaluator import Evaluator, evaluator_for
from netadapt_onnx.search.notes import Notes
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.predictor import Predictor
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.progress_reporter import ProgressReporter
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.search.time_limit import TimeLimit


@dataclass(frozen=True)
class SearchContext:
    """What all parts of one search read.

    Attributes:
        run: The run directory, which this process holds.
        prepared: The model and the data.
        options: The user's options.
        execution: How models run where they are measured.
        budget_checks: The check of every resource that is measured.
        evaluator: Evaluates models.
        predict: Predicts the resources of the model at any widths, in base units.
        metadata: What the models of the run hold of where they come from.
        reporter: Follows what takes long.
        time_limit: The time that is left.
        notes: What users should know of the result.
        log: Gets a line per event.
    """

    run: Run
    prepared: PreparedModel
    options: AdaptOptions
    execution: Execution
    budget_checks: Mapping[str, BudgetCheck]
    evaluator: Evaluator
    predict: Predictor
    metadata: Mapping[str, str]
    reporter: ProgressReporter
    time_limit: TimeLimit
    notes: Notes
    log: Callable[[str], None]

    def fold(self, proto: onnx.ModelProto) -> FoldedModel:
        """A model of the run, folded at the shapes that the user fixed."""
        return fold(proto, dict(self.options.shapes), self.options.batch_size)


def search_context(
    environment: SearchEnvironment, prepared: PreparedModel, budget_checks: Mapping[str, BudgetCheck]
) -> SearchContext:
    """The context of a search for `prepared` in this environment."""
    options = environment.options
    # Bytes are reserved for metadata whatever a resume changes: it must predict as a run that never stopped.
    extra_bytes = stored_bytes(_metadata(prepared, options.with_longest_values()))
    predictions = {name: check.prediction for name, check in budget_checks.items()}
    return SearchContext(
        run=environment.run,
        prepared=prepared,
        options=options,
        execution=environment.execution,
        budget_checks=dict(budget_checks),
        evaluator=evaluator_for(prepared, options),
        predict=Predictor(
            prepared.trace,
            extra_bytes,
            {name: prediction.amount for name, prediction in predictions.items()},
            prepared.branches,
            {name: prediction.by_layer for name, prediction in predictions.items()},
        ),
        metadata=_metadata(prepared, options),
        reporter=ProgressReporter(environment.progress),
        time_limit=TimeLimit(environment.run),
        notes=environment.notes,
        log=environment.log,
    )


def _metadata(prepared: PreparedModel, options: AdaptOptions) -> dict[str, str]:
    """What the models of a run hold of where they come from."""
    command = options.command(prepared.model.path, prepared.data)
    return provenance(prepared.model.sha256, command=command, budget=", ".join(options.budget))
