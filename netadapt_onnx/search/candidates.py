"""The current model of a run, and proposals made into models: cut, adapted, evaluated, and the winner accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from netadapt_onnx.common.progress import stage
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load
from netadapt_onnx.search.channel_selection import BaseModel, ChannelSelector, KeptIndices, SelectedCut
from netadapt_onnx.search.context import SearchContext
from netadapt_onnx.search.curves import Probe, losses_of, probe_counts
from netadapt_onnx.search.executors.protocol import Executor, JobFailure, Shared, Work, WorkerInfo
from netadapt_onnx.search.iteration_files import IterationFiles
from netadapt_onnx.search.jobs import (
    LOG,
    BaseName,
    CutRequest,
    EvaluationRequest,
    Job,
    ProposalResult,
    ShortTraining,
    SolveRequest,
    forget,
    read_request,
    run_jobs,
)
from netadapt_onnx.search.joint_iteration import best_first
from netadapt_onnx.search.knapsack import importances_of
from netadapt_onnx.search.netadapt import Accepted
from netadapt_onnx.search.proposals import Proposal
from netadapt_onnx.search.run_directory.file_names import MODEL_FILE
from netadapt_onnx.search.width_program import Losses
from netadapt_onnx.search.worker import WorkerContext, cut_model, evaluate_proposal, solve_model
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.trace import trace as traced
from netadapt_onnx.training.data_criteria import criterion_on

# The number of the iteration that probes belong to: they are of the original.
PROBES = 0


@dataclass(frozen=True)
class EvaluationPlan:
    """What is done to proposals.

    Attributes:
        name: The folder of their jobs, and what progress calls them.
        training: The short training after the cut; None: there is none.
        in_order: Whether the original is cut anew, and all layers are solved in order.
        fidelity: Whether the share of the original's outputs that is explained is the result, and not the accuracy.
    """

    name: str
    training: ShortTraining | None = None
    in_order: bool = False
    fidelity: bool = False


class Candidates:
    """The current model of a run, and the models that it may become.

    Attributes:
        iteration: The iteration that the current model is of; 0 is the original.
    """

    def __init__(self, context: SearchContext, executor: Executor) -> None:
        """Begin with the original; jobs are done by `executor`."""
        prepared, options = context.prepared, context.options
        self._context = context
        self._run = context.run
        self._executor = executor
        self._branches = prepared.branches
        train = None if prepared.data is None else prepared.data.train
        self._criterion = criterion_on(options.criterion_for(has_inputs=train is not None), train, options.seed)
        self._original = BaseModel(prepared.trace, {})
        self._files = IterationFiles(context.run, prepared.trace)
        self._worker_context = WorkerContext(
            self._original,
            context.evaluator,
            prepared.data,
            seed=options.seed,
            trains=options.rank == "finetune" or context.trials.trains_finalists or context.trials.portfolio > 0,
            shapes=dict(options.shapes),
            batch_size=options.batch_size,
        )
        # The knapsack's own scores select, too; other strategies ask for error curves.
        orders = None if options.strategy == "knapsack" else self._worker_context.eliminations
        self._selector = ChannelSelector(self._original, prepared.branches, self._criterion, orders)
        self._current = BaseModel(prepared.trace, {})
        self._shared = (Shared(self._worker_context), Shared(self._current))
        self.iteration = 0
        # Whether all layers of a winner are solved, and nothing is trained.
        self.solves_winners = options.rank == "reconstruct" and not context.trials.short_term
        # The kinds of jobs, by iteration, of which one has succeeded.
        self._succeeded = set[tuple[int, bool, bool]]()
        self._losses: Losses | None = None
        # Another round of the curves often meets models again that the one before has evaluated.
        self._earlier: dict[str, dict[str, Any]] = {}

    @property
    def current(self) -> Trace:
        """The current model."""
        return self._current.trace

    @property
    def trained(self) -> bool:
        """Whether the current model's weights come from a final training."""
        return self._current.trained

    def resume(self, iteration: int) -> None:
        """Make the model of an earlier iteration the current one."""
        if iteration == 0:
            self._current = BaseModel(self._original.trace, {})
        else:
            proto, kept = self._files.read(iteration)
            trace = traced(self._context.fold(proto))
            self._current = BaseModel(trace, kept.indices(), frozenset(kept.removed), trained=kept.trained)
        self._shared = (self._shared[0], Shared(self._current))
        self.iteration = iteration

    def rank(self, iteration: int, proposals: Sequence[Proposal], numbers: Sequence[int]) -> list[float | None]:
        """The ranking accuracy of some of an iteration's proposals after their short adaptation; None: it failed."""
        training = self._short_training() if self._context.options.rank == "finetune" else None
        return self._evaluate(iteration, proposals, numbers, EvaluationPlan("proposals", training))

    def refine(self, iteration: int, proposals: Sequence[Proposal], numbers: Sequence[int]) -> list[float | None]:
        """The ranking accuracy of finalists, trained or all layers solved; None for one that failed, or is neither."""
        training = self._short_training() if self._context.trials.short_term else None
        if training is None and self._current.trained:
            return [None for _ in numbers]
        plan = EvaluationPlan("finalists", training, in_order=training is None)
        return self._evaluate(iteration, proposals, numbers, plan)

    def solve_jointly(
        self, iteration: int, name: str, proposals: Sequence[Proposal], numbers: Sequence[int]
    ) -> list[float | None]:
        """The ranking accuracy of joint proposals, all of their layers solved in order; None for one that failed."""
        if len(numbers) < len(proposals):  # the others have their accuracies already: these may fail
            self._succeeded.add((iteration, True, False))
        return self._evaluate(iteration, proposals, numbers, EvaluationPlan(name, in_order=True))

    def train_jointly(
        self, iteration: int, proposals: Sequence[Proposal], numbers: Sequence[int], steps: int
    ) -> list[float | None]:
        """The same after so many steps of training."""
        training = replace(self._short_training(), steps=steps)
        return self._evaluate(
            iteration, proposals, numbers, EvaluationPlan(f"trained-{steps}", training, in_order=True)
        )

    @stage("scoring channels")
    def importances(self) -> dict[str, np.ndarray]:
        """By group or branch, the importance of every channel of the current model, least first."""
        branches = [branch for branch in self._branches if branch.name not in self._current.removed]
        return importances_of(self.current, self._criterion, branches)

    @stage("scoring channels")
    def original_importances(self) -> dict[str, np.ndarray]:
        """By group or branch, the importance of every channel of the original by Taylor's criterion, least first."""
        data = self._context.prepared.data
        assert data is not None
        criterion = criterion_on("taylor", data.train, self._context.options.seed)
        return importances_of(self._original.trace, criterion, self._branches)

    def errors(self) -> Losses:
        """By group, the error when 0, 1, 2 ... of the original's channels are gone."""
        return self._worker_context.error_curves()

    def losses(self) -> Losses:
        """By group or branch, what the outputs lose when 0, 1, 2 ... of its channels are gone; probed on first use."""
        if self._losses is None:
            choices = self._context.prepared.choices
            counts = probe_counts(choices, self.errors())
            widths = self._context.prepared.widths
            proposals = [Proposal(name, n, {**widths, name: n}, {}) for name, n in counts.items()]
            plan = EvaluationPlan("probes", fidelity=True)
            explained = self._evaluate(PROBES, proposals, range(len(proposals)), plan)
            probes = [
                Probe(p.group, p.channels, None if share is None else 1 - share)
                for p, share in zip(proposals, explained, strict=True)
            ]
            self._losses = losses_of(choices, self.errors(), probes)
        return self._losses

    def accept(self, iteration: int, proposal: Proposal) -> Accepted:
        """Make a proposal the current model, measure the resources that can be, and evaluate it."""
        proto = self._make_current(iteration, proposal)
        predicted, checks = self._context.predict(proposal.widths), self._context.budget_checks
        for check in checks.values() if self._files.repeats(iteration) else ():
            check.carry_over(iteration - 1, iteration)  # a portfolio may be won by the widths reached so far
        correction = {
            name: check.correction(iteration, proto, predicted[name], proposal.resources[name])
            for name, check in checks.items()
        }
        measured = {n: estimate for n, c in checks.items() if (estimate := c.measured(iteration)) is not None}
        trials, evaluator = self._context.trials, self._context.evaluator
        # Solved anew, or trained for a short time: better than the proposal was when it was ranked.
        anew = self._context.prepared.data is not None and self._reconstructs
        changed = (anew and not trials.trains_finalists) or proposal.method is not None
        held_out = evaluator.held_out(proto) if changed else None
        return Accepted(
            accuracy=evaluator.val_accuracy(proto) if held_out is None else held_out.accuracy,
            ranked=None if held_out is None else held_out.ranked,
            correction=correction,
            measured={name: estimate.value for name, estimate in measured.items()},
            measured_ci95={name: (estimate.low, estimate.high) for name, estimate in measured.items()},
        )

    @stage("making the winner's model")
    def _make_current(self, iteration: int, proposal: Proposal) -> onnx.ModelProto:
        """Make a proposal the current model; its files are on the disk when this returns."""
        folder = self._run.iteration(iteration)
        if not self._files.has_model(iteration):
            cut = self._selector.cut(self._current, proposal.widths)
            cut.prove(proposal)
            if proposal.method is not None:
                proto = self._joint_model(iteration, cut)
            else:
                trained = self._trained_model(folder, proposal)
                proto = self._adapted_model(iteration, cut) if trained is None else trained
            self._files.write(iteration, cut, proto, self.current.folded.interface())
        for file in folder.glob(f"*/*/{MODEL_FILE}"):
            file.unlink()
        self.resume(iteration)
        return self.current.folded.proto

    def adopt(self, source: int, iteration: int, proto: onnx.ModelProto) -> None:
        """Make the trained model of iteration `source` the current one, as an iteration of its own."""
        self._files.write_trained(source, iteration, proto, self.current.folded.interface())
        self.resume(iteration)

    def rest(self) -> None:
        """Let go of memory that is of no use until the next proposals."""
        self._current.rest()
        self._worker_context.rest()

    def forget(self, iteration: int) -> None:
        """Remove the model of an earlier iteration; its plan and its proposals stay."""
        self._files.forget_model(iteration)

    @property
    def _reconstructs(self) -> bool:
        return self._context.options.rank == "reconstruct"

    def _evaluate(
        self, iteration: int, proposals: Sequence[Proposal], numbers: Sequence[int], plan: EvaluationPlan
    ) -> list[float | None]:
        """Evaluate some of an iteration's proposals, a job each; all may fail if others like them have not."""
        folder = (self._run.iteration(iteration) if iteration else self._run.path) / plan.name
        requests = [self._evaluation_request(iteration, proposals[number], plan) for number in numbers]
        jobs = [
            Job(folder / f"{number:03d}", _builtins(request), request.depends_on)
            for number, request in zip(numbers, requests, strict=True)
        ]
        what = f"iteration {iteration}" if iteration else "before the first iteration"
        keep_time = self._context.time_limit.proposals(len(jobs), what)

        def report(done: int) -> None:
            self._context.reporter(done, len(jobs), f"{what}, {plan.name}")
            if done:
                keep_time(done)

        report(0)
        threaded = plan.training is not None
        answers = run_jobs(
            self._executor, evaluate_proposal, self._shared, jobs, report, threaded=threaded, earlier=self._earlier
        )
        results = [msgspec.convert(answer, ProposalResult) for answer in answers]
        kind = (iteration, plan.in_order, plan.training is not None)
        if any(result.error is None for result in results):
            self._succeeded.add(kind)
        elif kind not in self._succeeded:
            # What fails them all is seldom the proposals' fault: a resumed run tries again.
            for job in jobs:
                forget(job.folder)
            raise NetadaptError(
                f"all {len(jobs)} {plan.name} of iteration {iteration} failed: {results[0].error}",
                hint=f"see {jobs[0].folder / LOG}; --resume tries again, or remove {self._run.path}",
                code="proposals-failed",
            )
        return [result.accuracy for result in results]

    def _evaluation_request(self, iteration: int, proposal: Proposal, plan: EvaluationPlan) -> EvaluationRequest:
        cut = self._selector.cut(self._current if iteration else self._original, proposal.widths)
        anew = plan.in_order or not iteration  # from the original
        return EvaluationRequest(
            iteration=iteration,
            group=proposal.label,
            channels=proposal.channels,
            base="original" if anew else self._base_name(cut),
            removed=sorted(cut.base.removed) if anew else _removed_before(cut),
            keep=_lists(cut.kept if anew else cut.keep),
            reconstruct=self._reconstructs,
            training=plan.training,
            in_order=plan.in_order,
            measure="fidelity" if plan.fidelity else "accuracy",
        )

    def _trained_model(self, folder: Path, proposal: Proposal) -> onnx.ModelProto | None:
        """The winner's model where its job has trained it; None if it was only cut."""
        trained = (file for file in folder.glob(f"*/*/{MODEL_FILE}") if _is_of(file, proposal))
        return next((load(file).proto for file in trained), None)

    def _joint_model(self, iteration: int, cut: SelectedCut) -> onnx.ModelProto:
        """The model of a joint proposal: solved, as it was when it was evaluated, or trained where that is better.

        What is better is said by the samples that rank proposals. The current model may have these widths already: a
        portfolio may be won by its own. Where it is solved too, it is the same.
        """
        is_current = self.iteration > 0 and cut.base is self._current and not cut.keep
        if is_current and self.solves_winners:
            return self.current.folded.proto
        candidates = [self._solved_model(iteration, cut)]
        if self._reconstructs and self._context.trials.short_term:
            candidates.append(self._short_trained(candidates[0]))
        if is_current:
            candidates.append(self.current.folded.proto)
        if len(candidates) == 1:
            return candidates[0]
        scores = {n: self._context.evaluator.ranking_accuracy(proto) for n, proto in enumerate(candidates)}
        return candidates[next(iter(best_first(scores)), 0)]

    def _adapted_model(self, iteration: int, cut: SelectedCut) -> onnx.ModelProto:
        """The winner's model, made again and, where that is asked for, trained for a short time.

        Where nothing was trained on the way, the original is cut anew and all of its layers are solved.
        """
        if self.solves_winners and not cut.base.trained:
            return self._solved_model(iteration, cut)
        proto = self._cut_model(iteration, cut)
        if self._reconstructs and self._context.trials.short_term:
            proto = self._short_trained(proto)
        return proto

    def _short_trained(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        return self._worker_context.train(proto, self._short_training(), WorkerInfo(threads=None))

    def _cut_model(self, iteration: int, cut: SelectedCut) -> onnx.ModelProto:
        """A cut of the current model, by the workers where they have all that it takes in memory."""
        if not self._executor.apart:
            return self._worker_context.cut(cut.base, cut.keep, reconstructs=self._reconstructs).proto
        request = CutRequest(self._base_name(cut), _removed_before(cut), _lists(cut.keep), self._reconstructs)
        return self._model_of_worker(iteration, cut_model, request)

    def _solved_model(self, iteration: int, cut: SelectedCut) -> onnx.ModelProto:
        """The same channels of the original with all layers solved, by the workers where they have all in memory."""
        if not self._executor.apart:
            return self._worker_context.solve(cut.kept, cut.base.removed).proto
        return self._model_of_worker(iteration, solve_model, SolveRequest(_lists(cut.kept), sorted(cut.base.removed)))

    def _model_of_worker(self, iteration: int, work: Work, request: CutRequest | SolveRequest) -> onnx.ModelProto:
        (outcome,) = self._executor.run(work, self._shared, [_builtins(request)], lambda *_: None)
        if isinstance(outcome, JobFailure):
            raise NetadaptError(
                f"the winner of iteration {iteration} could not be made again: {outcome.reason}",
                hint="--resume tries again",
                code="proposals-failed",
            )
        return onnx.load_from_string(outcome.files[MODEL_FILE])

    def _short_training(self) -> ShortTraining:
        """The short training of every proposal, finalist or winner."""
        gpu = not self._executor.apart or bool(getattr(self._executor, "gpus", False))
        options, proto = self._context.options, self._original.trace.folded.proto
        settings = self._context.training_settings(proto, gpu=gpu)
        return ShortTraining(self._context.trials.short_term, options.short_term_lr, settings)

    def _base_name(self, cut: SelectedCut) -> BaseName:
        return "original" if cut.start is self._original else "current"


def _removed_before(cut: SelectedCut) -> list[str]:
    """The branches that are removed from the model that is cut."""
    return sorted(cut.base.removed - cut.start.removed)


def _lists(indices: KeptIndices) -> dict[str, list[int]]:
    return {name: array.tolist() for name, array in indices.items()}


def _builtins(request: msgspec.Struct) -> dict[str, Any]:
    """A request as JSON has it, which is what executors send."""
    return dict(msgspec.to_builtins(request))


def _is_of(model: Path, proposal: Proposal) -> bool:
    """Whether a job's model is that of a proposal."""
    request = read_request(model.parent) or {}
    return (request.get("group"), request.get("channels")) == (proposal.group, proposal.channels)
