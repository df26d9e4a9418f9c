"""The long training at the end of a search, by the original as the teacher; and what a search goes on from after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from netadapt_onnx.common.progress import stage
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.search.candidates import Candidates
from netadapt_onnx.search.context import SearchContext
from netadapt_onnx.search.netadapt import TRAINED, Step
from netadapt_onnx.search.run_directory.layer_changes import TrainedEpoch, write_training
from netadapt_onnx.training.settings import cores

TRAINED_FILE, CHECKPOINT_FILE, TRAINING_LOG_FILE = "trained.onnx", "training.checkpoint", "training.jsonl"
# A trained model that is cut a little more is trained for this share of the epochs.
AGAIN = 0.2


@dataclass(frozen=True)
class FinalTraining:
    """Trains the models that searches end with, each once."""

    context: SearchContext
    candidates: Candidates

    def train(self, steps: Sequence[Step], since: int) -> onnx.ModelProto:
        """The current model after long training; as it was if that did not help, or is not to be done.

        One that descends from a trained model is trained for a share of the epochs.

        Args:
            steps: The steps to the current model.
            since: The number of steps that earlier targets took.
        """
        context, run = self.context, self.context.run
        searched = self.candidates.current.folded.proto
        epochs = self._epochs(steps, since)
        if not epochs:
            return searched
        if self._is_limited and not run.once(f"training/time/{len(steps)}", lambda: context.time_limit.left_s > 0):
            context.notes.add("there was no time for the final training: `netadapt-onnx finetune` does it")
            return searched
        folder = run.iteration(len(steps))
        file, checkpoint = folder / TRAINED_FILE, folder / CHECKPOINT_FILE
        if not run.journal.is_sealed(file):
            self._train(len(steps), searched, epochs, file)
        checkpoint.unlink(missing_ok=True)
        share = run.recall(f"training/share/{len(steps)}") or 1.0
        if share < 1.0:
            context.notes.add(
                f"the final training was shortened to {share * epochs:.1f} of {epochs} epochs: --max-time"
            )
        proto = context.fold(load(file).proto).proto
        if not context.evaluator.val_accuracy(proto) >= steps[-1].accepted.accuracy:  # NaN is no improvement either
            context.notes.add("the final training did not help: the model is as the search left it")
            return searched
        return proto

    def adopt(self, last: Step, iteration: int, proto: onnx.ModelProto) -> Step:
        """Make the trained model of a step an iteration of its own, which a search can go on from."""
        self.candidates.adopt(last.iteration, iteration, proto)
        total = sum(last.widths.values())
        evaluator = self.context.evaluator
        accuracy, ranked = evaluator.val_accuracy(proto), evaluator.ranking_accuracy(proto)
        return replace(
            last,
            iteration=iteration,
            group=TRAINED,
            channels=(total, total),
            accepted=replace(last.accepted, accuracy=accuracy, ranked=ranked),
            tried=(),
            skipped=tuple(last.widths),
        )

    def _epochs(self, steps: Sequence[Step], since: int) -> int:
        """For how many epochs the current model is trained; 0: not at all."""
        epochs = self.context.options.final_epochs
        if not epochs or self.context.prepared.data is None or not steps or steps[-1].group == TRAINED:
            return 0
        again = any(step.group == TRAINED for step in steps[since:])
        return max(1, round(AGAIN * epochs)) if again else epochs

    @property
    def _is_limited(self) -> bool:
        return self.context.options.max_time_s is not None

    def _train(self, iteration: int, searched: onnx.ModelProto, epochs: int, file: Path) -> None:
        """Train a model into its file, from the checkpoint that a killed run has left, if there is one."""
        from netadapt_onnx.training.callbacks import TrainingCallbacks, TrainingLog
        from netadapt_onnx.training.options import TrainingOptions
        from netadapt_onnx.training.trainer import train

        context, options, data = self.context, self.context.options, self.context.prepared.data
        assert data is not None
        reporter, time_limit = context.reporter, context.time_limit
        with TrainingLog(file.with_name(TRAINING_LOG_FILE)) as lines, stage("final training"):
            trained = train(
                searched,
                data,
                TrainingOptions(
                    epochs=epochs,
                    augment=options.augment,
                    flip=not options.augment and self._is_flip_invariant(),
                    seed=options.seed,
                    settings=context.training_settings(f"final/{iteration}", searched),
                ),
                teacher=context.prepared.trace.folded.proto,
                checkpoint=file.with_name(CHECKPOINT_FILE),
                callbacks=TrainingCallbacks(
                    progress=lambda done, total, loss: reporter(done, total, f"final training: loss {loss:.3f}"),
                    on_epoch=lines.epoch,
                    time_left=(lambda: time_limit.left_s) if self._is_limited else None,
                ),
            )
        context.run.once(f"training/share/{iteration}", lambda: trained.share)
        save(trained.proto, file, overwrite=True, planned=context.prepared.trace.folded.interface())
        context.run.journal.seal(file)
        write_training(context.run.path, [TrainedEpoch(e.epoch, e.loss, e.lr) for e in trained.history])

    def _is_flip_invariant(self) -> bool:
        """Whether the final training may flip pictures; evaluated once, so that a resumed run trains alike."""
        from netadapt_onnx.training.augment import is_flip_invariant

        context, data = self.context, self.context.prepared.data
        assert data is not None
        proto, seed = context.prepared.trace.folded.proto, context.options.seed
        return bool(context.run.once("training/mirrored", lambda: is_flip_invariant(proto, data.val, seed, cores())))


def cut_again_note(iteration: int) -> str:
    """The note on a trained model that a search goes on from."""
    return (
        f"the trained model was measured to miss the budget: as iteration {iteration} it is what was cut and trained a "
        "little more"
    )
