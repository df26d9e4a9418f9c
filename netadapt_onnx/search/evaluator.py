"""How accurate a model is: by held-out data, or by the caller's own function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx

from netadapt_onnx.common.progress import stage
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.data.evaluate import Accuracy, Compute, accuracy, accuracy_of_part, batch_size, explained, outputs
from netadapt_onnx.data.sample_scores import sample_scores
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.run_options import Evaluate
from netadapt_onnx.training.activation_cache import ActivationCache
from netadapt_onnx.training.settings import cores

# Proposals are compared on this many held-out samples: enough to tell them apart, few enough to try many.
RANKING_SAMPLES = 1024


class HeldOut(NamedTuple):
    """The accuracy of a model on all validation samples, and on those that rank proposals."""

    accuracy: float
    ranked: float


class Evaluator(Protocol):
    """Three accuracies of a model: on the samples that rank proposals, on all validation samples, on the test split."""

    @property
    def metric(self) -> str:
        """What the first two are: `top1`, for instance."""
        ...

    @property
    def test_metric(self) -> str:
        """What the last one is."""
        ...

    @property
    def split(self) -> str:
        """The split that results quote."""
        ...

    def fidelity(self, proto: onnx.ModelProto) -> float:
        """The share of the variance of the original's outputs that are explained, on those samples, or the same."""
        ...

    def ranking_accuracy(self, proto: onnx.ModelProto) -> float:
        """On the samples that rank proposals."""
        ...

    def val_accuracy(self, proto: onnx.ModelProto) -> float:
        """On all validation samples."""
        ...

    def held_out(self, proto: onnx.ModelProto) -> HeldOut:
        """On all validation samples, and on those that rank proposals."""
        ...

    def test_accuracy(self, proto: onnx.ModelProto) -> float:
        """On the split that results quote."""
        ...

    def training_score(self, proto: onnx.ModelProto) -> float:
        """What decides whether a training has helped, on all validation samples."""
        ...


@dataclass(frozen=True)
class UserEvaluator:
    """The caller's function is all three accuracies."""

    evaluate: Evaluate
    metric: str = "evaluate"
    test_metric: str = "evaluate"
    split: str = "evaluate"

    def ranking_accuracy(self, proto: onnx.ModelProto) -> float:
        """Whatever `evaluate` returns."""
        return float(self.evaluate(proto))

    def held_out(self, proto: onnx.ModelProto) -> HeldOut:
        """Twice what `evaluate` returns."""
        value = self.ranking_accuracy(proto)
        return HeldOut(value, value)

    fidelity = ranking_accuracy
    val_accuracy = ranking_accuracy
    test_accuracy = ranking_accuracy
    training_score = ranking_accuracy


@dataclass(frozen=True)
class DataEvaluator:
    """Accuracy in onnxruntime: the task's metric with labels, agreement with the original where there are none.

    The split that results quote takes no part in any choice.

    Attributes:
        dataset: The samples.
        original: The original model, for agreement with it.
        seed: The seed of the choice of samples.
        threads: The threads for the accuracies that are computed alone.
    """

    dataset: Dataset
    original: onnx.ModelProto
    seed: int = 0
    threads: int = 1
    _references: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict, init=False)
    # By the digest of its graph, the accuracy of the model that was evaluated last: it is needed again when that model
    # wins once more, or becomes the result; by then it was read from another file, or has other metadata.
    _last: dict[bytes, tuple[float, float | None]] = field(default_factory=dict, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return DataEvaluator, (self.dataset, self.original, self.seed, self.threads)

    @property
    def metric(self) -> str:
        """`top1`, `r2`, `miou`, the user's own, or `agreement`."""
        return self.dataset.val.metric

    @property
    def test_metric(self) -> str:
        """That of the split that results quote: labelled test samples may stand beside others without labels."""
        return self.dataset.final_split[1].metric

    @property
    def split(self) -> str:
        """`test`, or `val` where the data have no test samples."""
        return self.dataset.final_split[0]

    def ranking_accuracy(self, proto: onnx.ModelProto, prefixes: ActivationCache | None = None) -> float:
        """On a fixed subset of the validation samples, with one thread: proposals are ranked side by side.

        Without labels it is the fidelity: of a hundred pictures agreement tells only large differences apart, and of
        five versions of EfficientNet-Lite0 it took the third best one for the best.

        `prefixes` hold the activations of these samples in front of the cut, in the model that was cut.
        """
        if self.ranks_by_fidelity:
            return self.fidelity(proto, prefixes)
        return accuracy(*((proto, self.ranking) if prefixes is None else prefixes.shortened(proto))).value

    @property
    def ranks_by_fidelity(self) -> bool:
        """Whether `ranking_accuracy` and `fidelity` are the same."""
        return self.metric == "agreement"

    def ranking_scores(self, proto: onnx.ModelProto, count: int) -> np.ndarray | None:
        """What each of `count` of the ranking samples contributes to the ranking accuracy; None: that is no mean.

        Fewer samples are part of more, the same ones for every model.
        """
        split = self.ranking.sample(count, self.seed)
        reference = self._original_outputs(f"ranking/{count}", split, 1) if self.metric == "agreement" else None
        return sample_scores(proto, split, reference)

    def sampled_accuracy(self, proto: onnx.ModelProto) -> float:
        """The accuracy, or the agreement, on the ranking samples."""
        return self._on("ranking", self.ranking, proto, 1)

    def fidelity(self, proto: onnx.ModelProto, prefixes: ActivationCache | None = None) -> float:
        """The share of the variance of the original's outputs that a model's explain, on the ranking samples.

        `prefixes` are those of `ranking_accuracy`, which without labels is the same.
        """
        return self._fidelity(*((proto, self.ranking) if prefixes is None else prefixes.shortened(proto)))

    def training_score(self, proto: onnx.ModelProto) -> float:
        """What decides whether a training has helped: accuracy on all validation samples, without labels fidelity."""
        if self.metric != "agreement":
            return self.val_accuracy(proto)
        val = self.dataset.val
        return explained(outputs(proto, val, threads=self.threads), self._original_outputs("val", val, self.threads))

    def _fidelity(self, proto: onnx.ModelProto, split: Split) -> float:
        return explained(outputs(proto, split), self._original_outputs("ranking", self.ranking, 1))

    @property
    def ranking(self) -> Split:
        """The samples that rank proposals."""
        return self.dataset.val.sample(RANKING_SAMPLES, self.seed)

    def val_accuracy(self, proto: onnx.ModelProto) -> float:
        """On all validation samples."""
        return self._evaluated(proto)[0]

    def held_out(self, proto: onnx.ModelProto) -> HeldOut:
        """On all validation samples, and on those that rank proposals: against labels in one pass."""
        accuracy, ranked = self._evaluated(proto)
        return HeldOut(accuracy, self.ranking_accuracy(proto) if ranked is None else ranked)

    @stage("evaluating on validation samples")
    def _evaluated(self, proto: onnx.ModelProto) -> tuple[float, float | None]:
        """On all validation samples, and on those that rank proposals where that costs nothing more."""
        digest = sha256(proto.graph.SerializeToString(deterministic=True)).digest()
        if digest not in self._last:
            val = self.dataset.val
            values: tuple[float, float | None]
            if val.labels is None or val.user_metric is not None:
                values = (self._on("val", val, proto, self.threads), None)
            else:
                rows = val.sampled_rows(RANKING_SAMPLES, self.seed)
                of_all, of_ranking = accuracy_of_part(proto, val, rows, threads=self.threads)
                values = (of_all.value, of_ranking.value)
            self._last.clear()
            self._last[digest] = values
        return self._last[digest]

    @stage("evaluating for the result")
    def test_accuracy(self, proto: onnx.ModelProto) -> float:
        """On the split that results quote."""
        name, split = self.dataset.final_split
        return self._on(name, split, proto, self.threads)

    def device_accuracy(self, proto: onnx.ModelProto, compute: Compute, most_bytes: int) -> tuple[Accuracy, Accuracy]:
        """On the first batches of the split that results quote, by a device and by this machine.

        Args:
            proto: The model.
            compute: Computes the model's outputs on the device.
            most_bytes: The most bytes of inputs.
        """
        name, split = self.dataset.final_split
        sample = sum(value.nbytes for value in split.batch(np.arange(1)).values())
        count, each = min(len(split), max(1, most_bytes // max(1, sample))), batch_size(proto, split)
        count = max(count - count % each, min(each, len(split)))
        chosen = split.sample(count, self.seed)
        reference = self._reference(f"{name}/{count}", chosen, self.threads)
        on_device, locally = (
            accuracy(proto, chosen, reference=reference, threads=self.threads, compute=by) for by in (compute, None)
        )
        return on_device, locally

    def _on(self, name: str, split: Split, proto: onnx.ModelProto, threads: int) -> float:
        return accuracy(proto, split, reference=self._reference(name, split, threads), threads=threads).value

    def _reference(self, name: str, split: Split, threads: int) -> Mapping[str, np.ndarray] | None:
        """What a model is to agree with on a split; None where there is something better to score it by."""
        return self._original_outputs(name, split, threads) if split.metric == "agreement" else None

    def _original_outputs(self, name: str, split: Split, threads: int) -> Mapping[str, np.ndarray]:
        with self._lock:  # jobs side by side ask for the same
            if name not in self._references:
                self._references[name] = outputs(self.original, split, threads=threads)
            return self._references[name]


def evaluator_for(prepared: PreparedModel, arguments: AdaptOptions) -> Evaluator:
    """What evaluates the models of a run."""
    if arguments.evaluate is not None:
        return UserEvaluator(arguments.evaluate)
    assert prepared.data is not None
    return DataEvaluator(prepared.data, prepared.trace.folded.proto, arguments.seed, cores())
