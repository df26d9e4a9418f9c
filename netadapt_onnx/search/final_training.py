"""The long training at the end of a search, by the original as the teacher; and what a search goes on from after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx

from netadapt_onnx.common.progress import stage
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.search.candidates import Candidates
from netadapt_onnx.search.evaluator import Evaluator
from netadapt_onnx.search.netadapt import TRAINED, Step
from netadapt_onnx.search.options import Arguments
from netadapt_onnx.search.outcome import Outcome
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.progress_reporter import ProgressReporter
from netadapt_onnx.search.run_directory.details import TrainedEpoch, write_training
from netadapt_onnx.search.run_directory.run import Run
from netadapt_onnx.search.time_limit import TimeLimit
from netadapt_onnx.training.settings import cores

TRAINED_FILE, CHECKPOINT_FILE, TRAINING_LOG_FILE = "trained.onnx", "training.checkpoint", "training.jsonl"
# A trained model that is cut a little more is trained for this share of the epochs.
AGAIN = 0.2


@dataclass(frozen=True)
class FinalTraining:
    """Trains the models that searches come to, each once; `note` gets what users should know of it."""

    run: Run
    subject: PreparedModel
    arguments: Arguments
    candidates: Candidates
    judge: Evaluator
    outcome: Outcome
    standing: ProgressReporter
    time: TimeLimit
    note: Callable[[str], None]

    def trained(self, steps: Sequence[Step], since: int = 0) -> onnx.ModelProto:
        """The current model after long training; as it was if that did not help or was not wanted.

        One that descends from a trained model is trained for a while only.
        """
        searched = self.candidates.current.folded.proto
        epochs, data = self.arguments.final_epochs, self.subject.data
        if not epochs or data is None or not steps or steps[-1].group == TRAINED:
            return searched
        if any(step.group == TRAINED for step in steps[since:]):
            epochs = max(1, round(AGAIN * epochs))
        folder = self.run.iteration(len(steps))
        file, checkpoint = folder / TRAINED_FILE, folder / CHECKPOINT_FILE
        limited = self.arguments.max_time_s is not None
        if limited and not self.run.once(f"training/time/{len(steps)}", lambda: self.time.left_s > 0):
            self.note("there was no time for the final training: `netadapt-onnx finetune` does it")
            return searched
        if not self.run.journal.is_sealed(file):
            from netadapt_onnx.training.callbacks import TrainingCallbacks
            from netadapt_onnx.training.options import TrainingOptions
            from netadapt_onnx.training.trainer import train
            from netadapt_onnx.training.training_log import TrainingLog

            with TrainingLog(folder / TRAINING_LOG_FILE) as lines, stage("final training"):
                trained = train(
                    searched,
                    data,
                    TrainingOptions(
                        epochs=epochs,
                        augment=self.arguments.augment,
                        flip=not self.arguments.augment and self._knows_mirrored(),
                        seed=self.arguments.seed,
                        settings=self.candidates.training_settings(f"final/{len(steps)}", searched),
                    ),
                    teacher=self.subject.trace.folded.proto,
                    checkpoint=checkpoint,
                    callbacks=TrainingCallbacks(
                        on_epoch=lines.epoch,
                        progress=lambda done, total, loss: self.standing(
                            done, total, f"final training: loss {loss:.3f}"
                        ),
                        time_left=(lambda: self.time.left_s) if limited else None,
                    ),
                )
            self.run.once(f"training/share/{len(steps)}", lambda: trained.share)
            save(trained.proto, file, overwrite=True, planned=self.subject.trace.folded.interface())
            self.run.journal.seal(file)
            write_training(self.run.path, [TrainedEpoch(e.epoch, e.loss, e.lr) for e in trained.history])
        checkpoint.unlink(missing_ok=True)
        share = self.run.recall(f"training/share/{len(steps)}") or 1.0
        if share < 1.0:
            self.note(f"the final training was shortened to {share * epochs:.1f} of {epochs} epochs: --max-time")
        proto = self.outcome.folded(load(file).proto).proto
        if not self.judge.held_out(proto) >= steps[-1].accepted.accuracy:  # NaN is no improvement either
            self.note("the final training did not help: the model is as the search left it")
            return searched
        return proto

    def adopted(self, last: Step, iteration: int, proto: onnx.ModelProto) -> Step:
        """The trained model of a step as an iteration of its own, which a search can go on from."""
        self.candidates.adopt(last.iteration, iteration, proto)
        total = sum(last.widths.values())
        accuracy, ranked = self.judge.held_out(proto), self.judge.ranked(proto)
        accepted = replace(last.accepted, accuracy=accuracy, ranked=ranked)
        return Step(
            iteration,
            TRAINED,
            (total, total),
            last.widths,
            last.driver,
            last.target,
            last.resources,
            accepted,
            (),
            tuple(last.widths),
        )

    def _knows_mirrored(self) -> bool:
        """Whether the final training may see pictures both ways; evaluated once, so that a resumed run trains alike."""
        from netadapt_onnx.training.mirroring import is_flip_invariant

        data = self.subject.data
        assert data is not None
        found = self.run.once(
            "training/mirrored",
            lambda: is_flip_invariant(self.subject.trace.folded.proto, data.val, self.arguments.seed, cores()),
        )
        return bool(found)


def cut_again(iteration: int) -> str:
    """What to say of a trained model that a search goes on from."""
    return (
        f"the trained model was measured to miss the budget: as iteration {iteration} it is what was cut and trained a "
        "little more"
    )
