"""Who says how accurate a model is: held-out data, or the caller's own function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx

from netadapt_onnx.common.progress import stage
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.data.evaluate import Accuracy, Compute, accuracy, batch_size, outputs
from netadapt_onnx.search.options import Arguments, Evaluate
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.training.activation_cache import ActivationCache
from netadapt_onnx.training.settings import cores

# Proposals are compared on this many held-out samples: enough to tell them apart, few enough to try many.
RANKING_SAMPLES = 1024


class Evaluator(Protocol):
    """Three accuracies of a model: on the samples that rank proposals, on all held-out ones, on those reported."""

    @property
    def metric(self) -> str: ...  # noqa: D102

    @property
    def reported_metric(self) -> str: ...  # noqa: D102

    @property
    def split(self) -> str: ...  # noqa: D102

    def ranked(self, proto: onnx.ModelProto) -> float: ...  # noqa: D102

    def held_out(self, proto: onnx.ModelProto) -> float: ...  # noqa: D102

    def reported(self, proto: onnx.ModelProto) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class CallersJudge:
    """The caller's function gives all three."""

    evaluate: Evaluate
    metric: str = "evaluate"
    reported_metric: str = "evaluate"
    split: str = "evaluate"

    def ranked(self, proto: onnx.ModelProto) -> float:
        """Whatever `evaluate` returns."""
        return float(self.evaluate(proto))

    held_out = ranked
    reported = ranked


@dataclass(frozen=True)
class DataJudge:
    """Accuracy in onnxruntime: the task's metric with labels, agreement with the original where there are none.

    The split that is reported takes no part in any choice. `threads`: for the accuracies that are computed alone.
    """

    dataset: Dataset
    original: onnx.ModelProto
    seed: int = 0
    threads: int = 1
    _references: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    # The model that was evaluated last, whose accuracy is asked for again when it becomes the result.
    _last: list[tuple[onnx.ModelProto, float]] = field(default_factory=list)

    @property
    def metric(self) -> str:
        """`top1`, `r2`, `miou`, the user's own, or `agreement`."""
        return self.dataset.val.metric

    @property
    def reported_metric(self) -> str:
        """That of the split that results quote: labelled test samples may stand beside others without labels."""
        return self.dataset.final_split[1].metric

    @property
    def split(self) -> str:
        """`test`, or `val` where the data have no test samples."""
        return self.dataset.final_split[0]

    def ranked(self, proto: onnx.ModelProto, prefixes: ActivationCache | None = None) -> float:
        """On a fixed subset of the held-out samples, with one thread: proposals are ranked side by side.

        `prefixes` hold what the model they were cut from computes of these samples in front of the cut.
        """
        if prefixes is None:
            return self._on("ranking", self.ranking, proto, 1)
        rest, split = prefixes.shortened(proto)
        return accuracy(rest, split, reference=self._reference("ranking", self.ranking, 1)).value

    @property
    def ranking(self) -> Split:
        """The samples that rank proposals."""
        return self.dataset.val.sample(RANKING_SAMPLES, self.seed)

    @stage("evaluating on validation samples")
    def held_out(self, proto: onnx.ModelProto) -> float:
        """On all held-out samples."""
        if not self._last or self._last[0][0] is not proto:
            self._last[:] = [(proto, self._on("val", self.dataset.val, proto, self.threads))]
        return self._last[0][1]

    @stage("evaluating for the result")
    def reported(self, proto: onnx.ModelProto) -> float:
        """On the split that results quote."""
        name, split = self.dataset.final_split
        return self._on(name, split, proto, self.threads)

    def computed(self, proto: onnx.ModelProto, compute: Compute, most_bytes: int) -> tuple[Accuracy, Accuracy]:
        """By `compute` and here, on so many whole batches of what results quote that the inputs stay below a size."""
        name, split = self.dataset.final_split
        sample = sum(value.nbytes for value in split.batch(np.arange(1)).values())
        count, each = min(len(split), max(1, most_bytes // max(1, sample))), batch_size(proto, split.layout)
        count = max(count - count % each, min(each, len(split)))
        chosen = split.sample(count, self.seed)
        reference = self._reference(f"{name}/{count}", chosen, self.threads)
        there, here = (
            accuracy(proto, chosen, reference=reference, threads=self.threads, compute=by) for by in (compute, None)
        )
        return there, here

    def _on(self, name: str, split: Split, proto: onnx.ModelProto, threads: int) -> float:
        return accuracy(proto, split, reference=self._reference(name, split, threads), threads=threads).value

    def _reference(self, name: str, split: Split, threads: int) -> Mapping[str, np.ndarray] | None:
        if split.metric == "agreement" and name not in self._references:
            self._references[name] = outputs(self.original, split, threads=threads)
        return self._references.get(name)


def judge_for(subject: PreparedModel, arguments: Arguments) -> Evaluator:
    """Who says how accurate the models of a run are."""
    if arguments.evaluate is not None:
        return CallersJudge(arguments.evaluate)
    assert subject.data is not None
    return DataJudge(subject.data, subject.trace.folded.proto, arguments.seed, cores())
