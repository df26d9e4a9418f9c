"""Criteria that look at data: activations with onnxruntime alone, gradients with torch."""

from __future__ import annotations

from threading import Lock

import numpy as np

from netadapt_onnx.data.dataset import Split
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery import MEASURED, Criterion, Group, Trace
from netadapt_onnx.surgery.activations import activations
from netadapt_onnx.surgery.reduction_sites import reduction_sites

# Two disjoint samples of so many images rank a ResNet-20's channels with Spearman 0.72 (taylor) and 0.77 (fisher).
# Twice as many: 0.86 and 0.89, no better cuts.
SAMPLES = 1024
# Models whose scores are remembered: the original and the current one of a search.
_REMEMBERED = 2


def criterion_on(name: str | Criterion, split: Split | None, seed: int = 0) -> str | Criterion:
    """What `select` takes for a criterion that may need data: at most 1,024 samples of `split` are looked at.

    Raises NetadaptError if it needs data and there is none.
    """
    if not isinstance(name, str) or name not in MEASURED:
        return name
    if split is None:
        raise NetadaptError(
            f"--criterion {name} looks at inputs", hint="give --data with x_train; labels are optional", code="usage"
        )
    return Measured(name, split.sample(SAMPLES, seed), seed)


class Measured:
    """A criterion by name on data; what it measured of a model is remembered. Threads may share it."""

    def __init__(self, name: str, split: Split, seed: int) -> None:
        self.__qualname__ = name
        self._name = name
        self._split = split
        self._seed = seed
        self._lock = Lock()
        self._known: list[tuple[Trace, np.ndarray]] = []

    def __call__(self, trace: Trace, group: Group) -> np.ndarray:
        """Importance of each channel of a group, (channels,)."""
        with self._lock:
            found = next((scores for known, scores in self._known if known is trace), None)
            if found is None:
                found = self._scores(trace)
                self._known = [*self._known[1 - _REMEMBERED :], (trace, found)]
        scores: np.ndarray = found[trace.members[group.name]]
        return scores

    def _scores(self, trace: Trace) -> np.ndarray:
        if self._name == "activation":
            return activation(trace, self._split.batch(slice(None)))
        try:
            from netadapt_onnx.training import gradient_scores
        except ModuleNotFoundError as error:
            raise NetadaptError(
                f"--criterion {self._name} needs torch",
                hint="pip install 'netadapt-onnx[adapt]', or choose activation, which needs none",
                code="missing-package",
            ) from error
        return {"taylor": gradient_scores.taylor, "fisher": gradient_scores.fisher}[self._name](
            trace, self._split, self._seed
        )


def activation(trace: Trace, inputs: Arrays) -> np.ndarray:
    """Mean absolute activation by root label where channels are consumed, averaged over their consumers.

    (Polyak & Wolf, IEEE Access 2015; Molchanov et al., ICLR 2017; near to the share of zeros of Hu et al., 2016.)
    Raises NetadaptError if there are too few inputs for a batch that the model fixes.
    """
    places = reduction_sites(trace)
    sums = [np.zeros(len(place.line)) for place in places]
    positions = [0] * len(places)
    for _, arrays in activations(trace, inputs, [place.tensor for place in places]):
        for i, place in enumerate(places):
            values = np.abs(np.moveaxis(arrays[place.tensor], place.axis, 0)).reshape(len(place.line), -1)
            sums[i] += values.sum(axis=1, dtype=np.float64)
            positions[i] += values.shape[1]
    if not all(positions):
        wanted = next(iter(trace.folded.specs.values()))[0][0]
        raise NetadaptError(
            f"--data holds fewer training samples than the model's fixed batch of {wanted}", code="invalid-data"
        )
    total, consumers = np.zeros(len(trace.roots)), np.zeros(len(trace.roots))
    for place, found, count in zip(places, sums, positions, strict=True):
        np.add.at(total, place.line, found / count)
        np.add.at(consumers, place.line, 1)
    return total / np.maximum(consumers, 1)
