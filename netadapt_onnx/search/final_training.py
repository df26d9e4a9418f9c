"""The long training at the end of a search, by the original as the teacher; and what a search goes on from after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.search.candidates import Candidates
from netadapt_onnx.search.context import SearchContext
from netadapt_onnx.search.netadapt import TRAINED, Step
from netadapt_onnx.search.run_directory.layer_changes import TrainedEpoch, write_training
from netadapt_onnx.training.length import BATCH_SIZE
from netadapt_onnx.training.settings import cores
from netadapt_onnx.training.validation import (
    PATIENCE,
    Evaluation,
    Validation,
    affordable_evaluations,
    best_of,
    outcome,
)

if TYPE_CHECKING:
    from netadapt_onnx.training.trainer import TrainResult

TRAINED_FILE, CHECKPOINT_FILE, TRAINING_LOG_FILE = "trained.onnx", "training.checkpoint", "training.jsonl"
NO_HELP = "Fine-tuning did not improve accuracy, so it was discarded"


@dataclass(frozen=True)
class FinalTraining:
    """Trains the models that searches end with, each once."""

    context: SearchContext
    candidates: Candidates

    def train(self, steps: Sequence[Step], since: int) -> onnx.ModelProto:
        """The current model after long training; as it was if that did not help, or is not to be done.

        One that descends from a trained model is trained for a share of the steps. A training that has ended, or was
        left out, stays so, whatever a resumed run is told of its length.

        Args:
            steps: The steps to the current model.
            since: The number of steps that earlier targets took.
        """
        context, run, number = self.context, self.context.run, len(steps)
        searched = self.candidates.current.folded.proto
        if context.prepared.data is None or not steps or steps[-1].group == TRAINED:
            return searched
        folder = run.iteration(number)
        file, checkpoint = folder / TRAINED_FILE, folder / CHECKPOINT_FILE
        if not run.journal.is_sealed(file):
            if run.recall(f"training/skipped/{number}") or not self._is_to_be_done(number):
                return searched
            again = any(step.group == TRAINED for step in steps[since:])
            self._train(number, again, file)
        checkpoint.unlink(missing_ok=True)
        self._note_share(number)
        evaluations = [Evaluation(*one) for one in run.recall(f"training/evaluations/{number}") or ()]
        if evaluations and best_of(evaluations).step == 0:
            why = "it diverged; " if len(evaluations) == 1 else ""
            context.notes.add(f"{NO_HELP} ({why}{self._measure}{outcome(evaluations)})")
            return searched
        proto = context.fold(load(file).proto).proto
        score = context.evaluator.training_score
        before = evaluations[0].accuracy if evaluations else score(searched)
        if not score(proto) >= before:  # NaN is no improvement either
            context.notes.add(NO_HELP)
            return searched
        return proto

    def _is_to_be_done(self, number: int) -> bool:
        """Whether the training begins, or goes on; that it does not is in the journal."""
        context, run = self.context, self.context.run
        if not context.options.final_epochs:
            return not run.once(f"training/skipped/{number}", lambda: True)
        if self._is_limited and not run.once(f"training/time/{number}", lambda: context.time_limit.left_s > 0):
            context.notes.add("There was no time left for the final training; the command finetune can do it.")
            return False
        return True

    def _note_share(self, number: int) -> None:
        share = self.context.run.recall(f"training/share/{number}") or 1.0
        if share < 1.0:
            self.context.notes.add(f"The final training was shortened to {share:.0%} of its steps to keep --max-time")

    def adopt(self, last: Step, iteration: int, proto: onnx.ModelProto) -> Step:
        """Make the trained model of a step an iteration of its own, which a search can go on from."""
        self.candidates.adopt(last.iteration, iteration, proto)
        total = sum(last.widths.values())
        accuracy, ranked = self.context.evaluator.held_out(proto)
        return replace(
            last,
            iteration=iteration,
            group=TRAINED,
            channels=(total, total),
            accepted=replace(last.accepted, accuracy=accuracy, ranked=ranked),
            tried=(),
            skipped=tuple(last.widths),
        )

    @property
    def _measure(self) -> str:
        """What decided, where that is finer than the metric of the tables."""
        data = self.context.prepared.data
        has_no_labels = data is not None and data.val.metric == "agreement"
        return "explained variance of the original's outputs: " if has_no_labels else ""

    @property
    def _is_limited(self) -> bool:
        return self.context.options.max_time_s is not None

    def _train(self, number: int, again: bool, file: Path) -> None:
        """Train the current model into its file; one that diverges is written as it was."""
        from netadapt_onnx.training.callbacks import Epoch

        run, current = self.context.run, self.candidates.current.folded
        before = self.context.evaluator.training_score(current.proto)
        share, epochs = 1.0, tuple[Epoch, ...]()
        evaluations, proto = [(0, before)], current.proto
        self.candidates.rest()
        try:
            trained = self._trained(number, before, again, file)
        except NetadaptError as error:
            if error.code != "diverged":
                raise
        else:
            evaluations = [(one.step, one.accuracy) for one in trained.evaluations]
            share, epochs, proto = trained.share, trained.history, trained.proto
        run.once(f"training/share/{number}", lambda: share)
        run.once(f"training/evaluations/{number}", lambda: evaluations)
        save(proto, file, overwrite=True, planned=self.context.prepared.trace.folded.interface())
        run.journal.seal(file)
        write_training(run.path, [TrainedEpoch(e.epoch, e.loss, e.lr) for e in epochs])

    def _trained(self, number: int, before: float, again: bool, file: Path) -> TrainResult:
        """The current model after training, from the checkpoint that a killed run has left, if there is one."""
        from netadapt_onnx.search.final_recipe import FinalRecipe
        from netadapt_onnx.training.callbacks import TrainingCallbacks, TrainingLog
        from netadapt_onnx.training.trainer import train

        context, data = self.context, self.context.prepared.data
        assert data is not None
        reporter, time_limit = context.reporter, context.time_limit
        original, current = context.prepared.trace.folded, self.candidates.current.folded
        recipe = FinalRecipe(context.options, data, current, original, again)
        settings = context.training_settings(current.proto)
        options = recipe.training_options(settings, self._is_flip_invariant())
        with TrainingLog(file.with_name(TRAINING_LOG_FILE)) as lines, stage("final training"):
            return train(
                current.proto,
                data,
                options,
                teacher=original.proto,
                checkpoint=file.with_name(CHECKPOINT_FILE),
                callbacks=TrainingCallbacks(
                    progress=lambda done, total, loss: reporter(done, total, f"final training: loss {loss:.3f}"),
                    on_epoch=lines.epoch,
                    time_left=(lambda: time_limit.left_s) if self._is_limited else None,
                ),
                validation=Validation(
                    self._score,
                    before,
                    PATIENCE if recipe.is_automatic else None,
                    affordable_evaluations(recipe.steps * (recipe.batch_size or BATCH_SIZE), len(data.val)),
                ),
            )

    def _score(self, proto: onnx.ModelProto) -> float:
        return self.context.evaluator.training_score(self.context.fold(proto).proto)

    def _is_flip_invariant(self) -> bool:
        """Whether the final training may flip pictures; evaluated once, so that a resumed run trains alike."""
        from netadapt_onnx.training.flip_invariance import is_flip_invariant

        context, data = self.context, self.context.prepared.data
        assert data is not None
        proto, seed = context.prepared.trace.folded.proto, context.options.seed
        return bool(context.run.once("training/mirrored", lambda: is_flip_invariant(proto, data.val, seed, cores())))


def cut_again_note(iteration: int) -> str:
    """The note on a trained model that a search goes on from."""
    return (
        "The trained model was measured to miss the budget, so it was cut and trained a little more as iteration "
        f"{iteration}"
    )
