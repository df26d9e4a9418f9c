"""Proposals made real: cut, adapted for a moment, judged; and the winner made the current model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.files import write_atomically
from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.common.progress import Progress, stage
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.search.block_removal import branch_importances, removed
from netadapt_onnx.search.evaluator import Evaluator
from netadapt_onnx.search.executors.protocol import Executor, Failed, Shared, WorkerInfo
from netadapt_onnx.search.jobs import LOG, Job, forget, read_request, run_jobs
from netadapt_onnx.search.knapsack import ascending
from netadapt_onnx.search.options import Arguments
from netadapt_onnx.search.proposal import Proposal, Widths
from netadapt_onnx.search.run_directory.journal import AGAIN
from netadapt_onnx.search.run_directory.run import Run, write_json
from netadapt_onnx.search.time_limit import TimeLimit
from netadapt_onnx.search.worker import MODEL_FILE, Base, Kept, Training, WorkerContext, evaluate_candidate, kept_after
from netadapt_onnx.surgery.blocks import Branch, prove_removal
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.plan import plan_of
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.trace import trace as traced
from netadapt_onnx.surgery.verify.prove import verify
from netadapt_onnx.training.criteria import criterion_on
from netadapt_onnx.training.settings import Settings

# Of the five inputs of a full proof: a wrong channel shows on the first.
PROOF_RUNS = 2
KEPT_FILE, PLAN_FILE = "kept.json", "plan.toml"


class KeptChannels(msgspec.Struct, frozen=True):
    """`kept.json` of an iteration: the original's channels and branches that its model still has, or no longer.

    `trained`: its weights come from a final training.
    """

    kept: Mapping[str, list[int]]
    removed: list[str] = []
    trained: bool = False


@dataclass(frozen=True)
class _Chosen:
    """A cut: of `start`, without some branches `base`, the channels `keep` stay.

    In the original's terms `kept` stay then; `there` are the groups whose branches are not gone.
    """

    start: Base
    base: Base
    keep: Kept
    kept: Kept
    there: frozenset[str]


class Candidates:
    """The current model of a run, and what can become of it. `kept` are the original's channels that it still has."""

    def __init__(
        self,
        run: Run,
        original: Trace,
        arguments: Arguments,
        judge: Evaluator,
        data: Dataset | None,
        executor: Executor,
        progress: Progress,
        time: TimeLimit,
        branches: Sequence[Branch] = (),
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._run = run
        self._log = log
        self._arguments = arguments
        self._data = data
        self._executor = executor
        self._branches = tuple(branches)
        self._there: dict[frozenset[str], frozenset[str]] = {}
        self._progress = progress
        self._time = time
        self._criterion = criterion_on(arguments.criterion, None if data is None else data.train, arguments.seed)
        self._original = Base(original, {})
        self._bench = WorkerContext(
            self._original,
            judge,
            data,
            seed=arguments.seed,
            trains=arguments.rank == "finetune" or arguments.finalists > 0,
            shapes=dict(arguments.shapes),
            batch_size=arguments.batch_size,
        )
        self._base = Base(original, {})
        self._shared = (Shared(self._bench), Shared(self._base))
        self.iteration = 0

    @property
    def current(self) -> Trace:
        """The current model."""
        return self._base.trace

    @property
    def kept(self) -> Kept:
        """The original's channels that the current model still has, for the groups that have lost any."""
        return self._base.kept

    def resume(self, iteration: int) -> None:
        """Make the model of an earlier iteration the current one."""
        if iteration == 0:
            self._base = Base(self._original.trace, {})
        else:
            folder = self._run.iteration(iteration)
            for name in (KEPT_FILE, MODEL_FILE):
                self._run.journal.require_sealed(folder / name)
            left = _left(folder / KEPT_FILE)
            kept = {name: np.array(indices) for name, indices in left.kept.items()}
            self._base = Base(self._read(folder), kept, frozenset(left.removed), trained=left.trained)
        self._shared = (self._shared[0], Shared(self._base))
        self.iteration = iteration

    def rank(self, iteration: int, proposals: Sequence[Proposal]) -> list[float | None]:
        """Held-out accuracy of each proposal after its short adaptation; None for one that failed."""
        training = self._training() if self._arguments.rank == "finetune" else None
        return self._done(iteration, proposals, "proposals", training)

    def refine(self, iteration: int, finalists: Sequence[Proposal]) -> list[float | None]:
        """Held-out accuracy of each finalist after short training; None for one that failed."""
        return self._done(iteration, finalists, "finalists", self._training())

    def _done(
        self, iteration: int, proposals: Sequence[Proposal], name: str, training: Training | None
    ) -> list[float | None]:
        """A job for each; `name` is that of their folder and what progress calls them."""
        folder = self._run.iteration(iteration) / name
        jobs = [
            Job(folder / f"{number:03d}", self._request(iteration, proposal, training))
            for number, proposal in enumerate(proposals)
        ]

        within_time = self._time.proposals(len(proposals), f"iteration {iteration}")

        def done(number: int) -> None:
            self._progress(number, len(proposals), f"iteration {iteration}, {name}")
            if number:
                within_time(number)

        done(0)
        results = run_jobs(
            self._executor,
            evaluate_candidate,
            self._shared,
            jobs,
            done,
            threaded=training is not None,
        )
        if all("error" in result for result in results):
            # What fails them all is seldom theirs: a resumed run tries again.
            for job in jobs:
                forget(job.folder)
            raise NetadaptError(
                f"all {len(jobs)} {name} of iteration {iteration} failed: {results[0]['error']}",
                hint=f"see {jobs[0].folder / LOG}; --resume tries again, or remove {self._run.path}",
                code="proposals-failed",
            )
        return [result.get("accuracy") for result in results]

    @stage("making the winner's model")
    def accept(self, iteration: int, proposal: Proposal) -> onnx.ModelProto:
        """Make a proposal the current model; it and the channels it kept are on the disk when this returns."""
        folder = self._run.iteration(iteration)
        if not self._run.journal.is_sealed(folder / MODEL_FILE):
            chosen = self._selected(proposal.widths)
            _prove(chosen, proposal)
            trained = [p for p in folder.glob(f"*/*/{MODEL_FILE}") if _is_of(p, proposal)]
            proto = load(trained[0]).proto if trained else self._made(iteration, proposal)
            if self._mend and self._arguments.short_term_steps and not trained:
                proto = self._bench.trained(proto, self._training(), WorkerInfo(threads=None))
            kept, base = chosen.kept, chosen.base
            there = {name: indices for name, indices in kept.items() if name in chosen.there}
            named = {name: indices.tolist() for name, indices in kept.items()}
            write_json(folder / KEPT_FILE, KeptChannels(named, sorted(base.removed), base.trained))
            write_atomically(folder / PLAN_FILE, plan_of(there, base.removed).encode())
            save(proto, folder / MODEL_FILE, overwrite=True, planned=self.current.folded.interface())
            self._seal(folder)
        for leftover in folder.glob(f"*/*/{MODEL_FILE}"):
            leftover.unlink()
        self.resume(iteration)
        return self.current.folded.proto

    @property
    def trained(self) -> bool:
        """Whether the current model's weights come from a final training."""
        return self._base.trained

    def adopt(self, source: int, iteration: int, proto: onnx.ModelProto) -> None:
        """Make the trained model of iteration `source` the current one, as an iteration of its own."""
        before, folder = self._run.iteration(source), self._run.iteration(iteration)
        left = _left(before / KEPT_FILE)
        write_json(folder / KEPT_FILE, msgspec.structs.replace(left, trained=True))
        write_atomically(folder / PLAN_FILE, (before / PLAN_FILE).read_bytes())
        save(proto, folder / MODEL_FILE, overwrite=True, planned=self.current.folded.interface())
        self._seal(folder)
        self.resume(iteration)

    def _seal(self, folder: Path) -> None:
        """Record what an iteration's files hold, its model last."""
        for name in (KEPT_FILE, PLAN_FILE, MODEL_FILE):
            self._run.journal.seal(folder / name)

    def importances(self) -> dict[str, np.ndarray]:
        """Importance of every channel of the current model's groups, least first."""
        scores = ascending(self.current, self._criterion)
        left = [branch for branch in self._branches if branch.name not in self._base.removed]
        return scores | branch_importances(left, scores)

    def forget(self, iteration: int) -> None:
        """Let go of an earlier iteration's model; its plan and what was tried stay."""
        (self._run.iteration(iteration) / MODEL_FILE).unlink(missing_ok=True)

    def _made(self, iteration: int, proposal: Proposal) -> onnx.ModelProto:
        """A winner's model, by the workers where they have all that it takes at hand.

        Where nothing was trained on the way, the original is cut anew and all of its layers are solved.
        """
        chosen = self._selected(proposal.widths)
        anew = self._mend and not self._arguments.short_term_steps and not chosen.base.trained
        removed = chosen.base.removed
        if not self._executor.apart:
            if anew:
                return self._bench.solved(chosen.kept, removed)
            return self._bench.cut(chosen.base, chosen.keep, mended=self._mend)
        request = self._request(iteration, proposal, None) | {"want": "model"}
        if anew:
            indices = {name: kept.tolist() for name, kept in chosen.kept.items()}
            request |= {"want": "solved", "base": "original", "removed": sorted(removed), "keep": indices}
        (outcome,) = self._executor.run(evaluate_candidate, self._shared, [request], lambda *_: None)
        if isinstance(outcome, Failed):
            raise NetadaptError(
                f"the winner of iteration {iteration} could not be made again: {outcome.reason}",
                hint="--resume tries again",
                code="proposals-failed",
            )
        return onnx.load_from_string(outcome.files[MODEL_FILE])

    @property
    def _mend(self) -> bool:
        return self._arguments.rank == "reconstruct"

    def _request(self, iteration: int, proposal: Proposal, training: Training | None) -> dict[str, Any]:
        """What `evaluate_candidate` is asked for."""
        chosen = self._selected(proposal.widths)
        return {
            "iteration": iteration,
            "group": proposal.group,
            "channels": proposal.channels,
            "base": "original" if chosen.start is self._original else "current",
            "removed": sorted(chosen.base.removed - chosen.start.removed),
            "keep": {name: indices.tolist() for name, indices in chosen.keep.items()},
            "mend": self._mend,
            "training": None if training is None else msgspec.to_builtins(training),
            "want": "accuracy",
        }

    def _selected(self, widths: Widths) -> _Chosen:
        """What to cut to get these widths (the current model; or the original if anything is given back), and how."""
        gone = removed(self._branches, widths)
        start = self._base if gone >= self._base.removed else self._original
        base = start.without(gone - start.removed)
        # Not the traced widths: a group of one channel is no group any more, but may be given channels back.
        original = self._original.trace
        if gone not in self._there:
            self._there[gone] = frozenset(group.name for group in self._original.without(gone).trace.groups)
        channels = {name: width for name, width in widths.items() if name in self._there[gone]}
        now = {name: len(self.kept[name]) if name in self.kept else original.group(name).channels for name in channels}
        more = {name: width for name, width in channels.items() if width > now[name]}
        if more or start is not self._base:
            start, base = self._original, self._original.without(gone)
            same = {name for name, width in channels.items() if width == now[name]}
            as_before = {name: indices for name, indices in self.kept.items() if name in same}
            rest = {n: w for n, w in channels.items() if n not in as_before and (n in more or w < now[n])}
            keep = as_before | select(base.trace, rest, self._criterion)
        else:
            fewer = {name: width for name, width in channels.items() if width < now[name]}
            keep = select(base.trace, fewer, self._criterion)
        return _Chosen(
            start, base, keep, kept_after(self.kept if start is self._base else {}, keep), frozenset(channels)
        )

    def _training(self) -> Training:
        """The short training of every proposal, or winner."""
        gpu = not self._executor.apart or bool(getattr(self._executor, "gpus", False))
        settings = self.training_settings("short-term", self._original.trace.folded.proto, gpu=gpu)
        asked = self._arguments
        return Training(asked.short_term_steps, asked.short_term_lr, settings, asked.freeze_front)

    def training_settings(self, key: str, proto: onnx.ModelProto, *, gpu: bool = True) -> Settings:
        """How to train fast on this machine: timed once, journalled, so that a resumed run trains the same way.

        `gpu`: on one, if there is one.
        """
        from netadapt_onnx.training.trainer import choose_settings

        data, seed, say = self._data, self._arguments.seed, self._log
        assert data is not None
        chosen = self._run.once(f"training/{key}", lambda: choose_settings(proto, data, seed=seed, gpu=gpu, say=say))
        return msgspec.convert(chosen, Settings)

    def _read(self, folder: Path) -> Trace:
        proto = load(folder / MODEL_FILE).proto
        return traced(fold(proto, dict(self._arguments.shapes), self._arguments.batch_size))


def _left(file: Path) -> KeptChannels:
    try:
        return msgspec.json.decode(file.read_bytes(), type=KeptChannels)
    except UNREADABLE as error:  # of a version whose files are not sealed
        raise NetadaptError(f"{file}: {' '.join(str(error).split())}", hint=AGAIN, code="corrupt-run") from error


def _prove(chosen: _Chosen, proposal: Proposal) -> None:
    """Every accepted cut is proven, before anything is trained. Raises NetadaptError if pruned is not masked."""
    if chosen.base is not chosen.start:
        prove_removal(chosen.start.trace.folded, chosen.base.removed - chosen.start.removed)
    proof = verify(chosen.base.trace, chosen.keep, runs=PROOF_RUNS)
    if not proof.exact:
        raise NetadaptError(
            f"the cut of group '{proposal.group}' to {proposal.channels} channels is not exact: tensor "
            f"'{proof.first_bad_tensor}' differs by {proof.max_rel_diff:.2g}",
            hint="please report this model",
            code="not-proven",
        )


def _is_of(model: Path, proposal: Proposal) -> bool:
    request = read_request(model.parent) or {}
    return (request.get("group"), request.get("channels")) == (proposal.group, proposal.channels)
