"""Proposals made real: cut, adapted for a moment, judged; and the winner made the current model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.folding import fold
from netadapt_onnx.model import load, save
from netadapt_onnx.runtime import Arrays
from netadapt_onnx.search.arguments import Arguments
from netadapt_onnx.search.jobs import LOG, forget, run_job
from netadapt_onnx.search.judge import Judge
from netadapt_onnx.search.proposal import Proposal, Widths
from netadapt_onnx.search.run import Run, write_atomically, write_json
from netadapt_onnx.surgery import (
    Moments,
    Targets,
    Trace,
    kept_outputs,
    moments,
    original_targets,
    plan_of,
    reconstruct,
    resize,
    select,
    verify,
)
from netadapt_onnx.surgery import trace as traced
from netadapt_onnx.training.data import Dataset
from netadapt_onnx.training.measured import criterion_on

if TYPE_CHECKING:
    from netadapt_onnx.training.settings import Settings
    from netadapt_onnx.training.teacher import Teacher

CALIBRATION_SAMPLES = 1024
# Of the five inputs of a full proof: a wrong channel shows on the first.
PROOF_RUNS = 2
MODEL_FILE, KEPT_FILE, PLAN_FILE = "model.onnx", "kept.json", "plan.toml"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Base:
    """A traced model and the cut of it; `kept` are the original's channels that the model still has."""

    trace: Trace
    kept: Mapping[str, np.ndarray]
    keep: Mapping[str, np.ndarray]

    def kept_after(self) -> dict[str, np.ndarray]:
        """The original's channels that the cut leaves, for the groups that have lost any."""
        before = dict(self.kept)
        return before | {n: before[n][indices] if n in before else indices for n, indices in self.keep.items()}


class Candidates:
    """The current model of a run, and what can become of it. `kept` are the original's channels that it still has."""

    def __init__(
        self, run: Run, original: Trace, arguments: Arguments, judge: Judge, data: Dataset | None, progress: Progress
    ) -> None:
        self._run = run
        self._original = original
        self._arguments = arguments
        self._judge = judge
        self._data = data
        self._progress = progress
        self._lock = Lock()
        self._moments: dict[int, dict[str, Moments]] = {}
        self._calibration: tuple[Arrays, Targets] | None = None
        self._teacher: Teacher | None = None
        self._criterion = criterion_on(arguments.criterion, None if data is None else data.train, arguments.seed)
        self.current = original
        self.kept: dict[str, np.ndarray] = {}
        self.iteration = 0

    def resume(self, iteration: int) -> None:
        """Make the model of an earlier iteration the current one."""
        if iteration == 0:
            self.current, self.kept, self.iteration = self._original, {}, 0
            return
        folder = self._run.iteration(iteration)
        self.current = self._read(folder)
        kept = msgspec.json.decode((folder / KEPT_FILE).read_bytes(), type=dict[str, list[int]])
        self.kept = {name: np.array(indices) for name, indices in kept.items()}
        self.iteration = iteration
        self._moments.clear()

    def rank(self, iteration: int, proposals: Sequence[Proposal]) -> list[float | None]:
        """Held-out accuracy of each proposal after its short adaptation; None for one that failed."""
        folder = self._run.iteration(iteration)
        # Training brings its own threads; everything else is single-threaded, a proposal per core.
        workers = 1 if self._arguments.rank == "finetune" else cores()
        done = 0

        def one(number: int) -> dict[str, Any]:
            nonlocal done
            proposal = proposals[number]
            request = {"iteration": iteration, "group": proposal.group, "channels": proposal.channels}
            result = run_job(folder / "proposals" / f"{number:03d}", request, partial(self._try, proposal))
            done += 1
            self._progress(done, len(proposals), f"iteration {iteration}")
            return result

        pool = ThreadPoolExecutor(workers)
        try:
            results = list(pool.map(one, range(len(proposals))))
        finally:  # after Ctrl-C those that have not begun never do
            pool.shutdown(cancel_futures=True)
        if all("error" in result for result in results):
            # What fails them all is seldom theirs: a resumed run tries again.
            jobs = [folder / "proposals" / f"{number:03d}" for number in range(len(proposals))]
            for job in jobs:
                forget(job)
            raise NetadaptError(
                f"all {len(jobs)} proposals of iteration {iteration} failed: {results[0]['error']}",
                hint=f"see {jobs[0] / LOG}; --resume tries again, or remove {self._run.path}",
                code="proposals-failed",
            )
        return [result.get("accuracy") for result in results]

    def accept(self, iteration: int, proposal: Proposal) -> onnx.ModelProto:
        """Make a proposal the current model; it and the channels it kept are on the disk when this returns."""
        folder = self._run.iteration(iteration)
        if not (folder / MODEL_FILE).exists():
            base = self._base(proposal.widths)
            _prove(base, proposal)
            trained = [p for p in (folder / "proposals").glob(f"*/{MODEL_FILE}") if _is_of(p, proposal)]
            proto = load(trained[0]).proto if trained else self._cut(base)
            if self._arguments.rank == "reconstruct" and self._arguments.short_term_steps:
                proto = self._trained(proto)
            kept = base.kept_after()
            write_json(folder / KEPT_FILE, {name: indices.tolist() for name, indices in kept.items()})
            write_atomically(folder / PLAN_FILE, plan_of(kept).encode())
            save(proto, folder / MODEL_FILE)
        for leftover in (folder / "proposals").glob(f"*/{MODEL_FILE}"):
            leftover.unlink()
        self.resume(iteration)
        return self.current.folded.proto

    def forget(self, iteration: int) -> None:
        """Let go of an earlier iteration's model; its plan and what was tried stay."""
        (self._run.iteration(iteration) / MODEL_FILE).unlink(missing_ok=True)

    def _try(self, proposal: Proposal, folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
        """The work of one job."""
        proto = self._cut(self._base(proposal.widths))
        if self._arguments.rank == "finetune":
            proto = self._trained(proto)
            save(proto, folder / MODEL_FILE, overwrite=True)
        return {"accuracy": self._judge.ranked(proto)}

    def _base(self, widths: Widths) -> _Base:
        """What to cut to get these widths: the current model; or the original if channels are given back."""
        # Not the traced widths: a group of one channel is no group any more, but may be given channels back.
        now = {
            name: len(self.kept[name]) if name in self.kept else self._original.group(name).channels for name in widths
        }
        more = {name: width for name, width in widths.items() if width > now[name]}
        if not more:
            fewer = {name: width for name, width in widths.items() if width < now[name]}
            return _Base(self.current, self.kept, select(self.current, fewer, self._criterion))
        as_before = {name: indices for name, indices in self.kept.items() if name not in more}
        return _Base(self._original, {}, as_before | select(self._original, more, self._criterion))

    def _cut(self, base: _Base) -> onnx.ModelProto:
        """The cut, its consumers reconstructed where there is data to do it with."""
        if self._data is None or self._arguments.rank == "finetune":
            return resize(base.trace, base.keep)
        return reconstruct(base.trace, base.keep, self._moments_of(base))

    def _moments_of(self, base: _Base) -> dict[str, Moments]:
        with self._lock:
            if id(base.trace) not in self._moments:
                inputs, targets = self._calibrated()
                outputs = kept_outputs(self._original, base.kept)
                self._moments[id(base.trace)] = moments(base.trace, inputs, targets, outputs)
            return self._moments[id(base.trace)]

    def _calibrated(self) -> tuple[Arrays, Targets]:
        """Calibration inputs, and what the original's layers make of them."""
        assert self._data is not None
        if self._calibration is None:
            inputs = self._data.train.sample(CALIBRATION_SAMPLES, self._arguments.seed).batch(slice(None))
            self._calibration = inputs, original_targets(self._original, inputs, self._arguments.seed)
        return self._calibration

    def _trained(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """A short distillation from the original."""
        from netadapt_onnx.training.teacher import Teacher
        from netadapt_onnx.training.trainer import train

        assert self._data is not None
        if not self._arguments.short_term_steps:
            return proto
        if self._teacher is None:
            self._teacher = Teacher(self._original.folded.proto, len(self._data.train))
        return train(
            fold(proto, dict(self._arguments.shapes), self._arguments.batch_size).proto,
            self._data,
            teacher=self._teacher,
            steps=self._arguments.short_term_steps,
            lr=self._arguments.short_term_lr,
            seed=self._arguments.seed,
            settings=self.training_settings("short-term", self._original.folded.proto),
        ).proto

    def training_settings(self, key: str, proto: onnx.ModelProto) -> Settings:
        """How to train fast on this machine: timed once, journalled, so that a resumed run trains the same way."""
        from netadapt_onnx.training.settings import Settings
        from netadapt_onnx.training.trainer import choose_settings

        data, seed = self._data, self._arguments.seed
        assert data is not None
        return msgspec.convert(
            self._run.once(f"training/{key}", lambda: choose_settings(proto, data, seed=seed)), Settings
        )

    def _read(self, folder: Path) -> Trace:
        proto = load(folder / MODEL_FILE).proto
        return traced(fold(proto, dict(self._arguments.shapes), self._arguments.batch_size))


def _prove(base: _Base, proposal: Proposal) -> None:
    """Every accepted cut is proven, before anything is trained. Raises NetadaptError if pruned is not masked."""
    proof = verify(base.trace, base.keep, runs=PROOF_RUNS)
    if not proof.exact:
        raise NetadaptError(
            f"the cut of group '{proposal.group}' to {proposal.channels} channels is not exact: tensor "
            f"'{proof.first_bad_tensor}' differs by {proof.max_rel_diff:.2g}",
            hint="please report this model",
            code="not-proven",
        )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_of(model: Path, proposal: Proposal) -> bool:
    request = msgspec.json.decode((model.parent / "request.json").read_bytes(), type=dict[str, Any])
    return (request["group"], request["channels"]) == (proposal.group, proposal.channels)
