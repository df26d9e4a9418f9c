"""What a search runs in, and what all of its parts read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import onnx

from netadapt_onnx.common.progress import Progress
from netadapt_onnx.common.provenance import provenance, stored_bytes
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.search.budget_check.check import BudgetCheck
from netadapt_onnx.search.evaluator import Evaluator, evaluator_for
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.predictor import Predictor
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.progress import ProgressReporter
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.search.time_limit import TimeLimit
from netadapt_onnx.search.trial_lengths import TrialLengths, trial_lengths
from netadapt_onnx.training.settings import Settings


class Notes:
    """The notes of a run, in the order in which they came up."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """Write every note to `log`, once."""
        self._log = log
        self._texts: list[str] = []

    @property
    def texts(self) -> tuple[str, ...]:
        """The notes so far."""
        return tuple(self._texts)

    def add(self, text: str) -> None:
        """Add a note, unless it is one already."""
        if text not in self._texts:
            self._texts.append(text)
            self._log(text)


@dataclass(frozen=True)
class SearchEnvironment:
    """What a search runs in.

    Attributes:
        run: The run directory, which this process holds.
        options: The user's options.
        execution: How models run where they are measured.
        progress: Follows what takes long.
        log: Gets a line per event.
        notes: What users should know of the result.
        on_iteration: Is called after each iteration, once that is on the disk.
    """

    run: Run
    options: AdaptOptions
    execution: Execution
    progress: Progress
    log: Callable[[str], None]
    notes: Notes
    on_iteration: Callable[[], None]


@dataclass(frozen=True)
class SearchContext(SearchEnvironment):
    """What all parts of one search read.

    Attributes:
        prepared: The model and the data.
        budget_checks: The check of every resource that is measured.
        evaluator: Evaluates models.
        predict: Predicts the resources of the model at any widths, in base units.
        metadata: What the models of the run hold of where they come from.
        reporter: Follows what takes long, with how far the search has come.
        time_limit: The time that is left.
        trials: The lengths of short trainings.
    """

    prepared: PreparedModel
    budget_checks: Mapping[str, BudgetCheck]
    evaluator: Evaluator
    predict: Predictor
    metadata: Mapping[str, str]
    reporter: ProgressReporter
    time_limit: TimeLimit
    trials: TrialLengths

    def fold(self, proto: onnx.ModelProto) -> FoldedModel:
        """A model of the run, folded at the shapes that the user fixed."""
        return fold(proto, dict(self.options.shapes), self.options.batch_size)

    def training_settings(self, proto: onnx.ModelProto, *, gpu: bool = True) -> Settings:
        """The fastest way to train on this machine: measured once, so that a resumed run trains the same way.

        The first model that is trained is timed; the others are cut from the same original.

        Args:
            proto: The model.
            gpu: Whether to train on a GPU, if there is one.
        """
        from netadapt_onnx.training.choose_settings import choose_settings

        data, seed, log = self.prepared.data, self.options.seed, self.log
        assert data is not None
        key = "training/settings" if gpu else "training/settings/cpu"
        chosen = self.run.once(key, lambda: choose_settings(proto, data, seed=seed, gpu=gpu, log=log))
        return msgspec.convert(chosen, Settings)


def search_context(
    environment: SearchEnvironment, prepared: PreparedModel, budget_checks: Mapping[str, BudgetCheck]
) -> SearchContext:
    """The context of a search for `prepared` in this environment."""
    options = environment.options
    # Bytes are reserved for metadata whatever a resume changes: it must predict as a run that never stopped.
    extra_bytes = stored_bytes(_metadata(prepared, options.with_longest_values()))
    predictions = {name: check.prediction for name, check in budget_checks.items()}
    return SearchContext(
        **vars(environment),
        prepared=prepared,
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
        trials=trial_lengths(prepared, options),
    )


def _metadata(prepared: PreparedModel, options: AdaptOptions) -> dict[str, str]:
    """What the models of a run hold of where they come from."""
    command = options.command(prepared.model.path, prepared.data)
    return provenance(prepared.model.sha256, command=command, budget=", ".join(options.budget))
