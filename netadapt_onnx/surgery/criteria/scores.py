"""Scores of channels: what a criterion is, and how scores by label become scores by channel."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import numpy as np

from netadapt_onnx.graph.axis_arrays import Array
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.trace import Trace

# The names of criteria that look at inputs without torch; here, so that whoever asks for a name loads neither.
OBS, ACTIVATION = "obs", "activation"
# Importance of each channel of a group, (channels,); the largest stay.
Criterion = Callable[[Trace, Group], np.ndarray]
# Importance by root label of a model, (labels,).
LabelScores = Callable[[Trace], np.ndarray]
# Models whose scores are remembered: the original and the current one of a search.
REMEMBERED = 2


class ChannelScores:
    """Sums values by the root labels of one group; of a model of many groups nothing else is looked at."""

    def __init__(self, trace: Trace, group: Group) -> None:
        self._roots, self._channel = np.unique(trace.members[group.name], return_inverse=True)
        self._total = np.zeros(len(self._roots))

    def add(self, axis_labels: Array, values: np.ndarray) -> None:
        """Add one value for each position along an axis with these root labels; those of other groups are left out."""
        index = np.minimum(np.searchsorted(self._roots, axis_labels), len(self._roots) - 1)
        ours = self._roots[index] == axis_labels
        np.add.at(self._total, index[ours], values[ours])

    @property
    def by_channel(self) -> np.ndarray:
        """The sum of each channel of the group, (channels,); channels tied together share theirs."""
        total: np.ndarray = self._total[self._channel]
        return total


class RememberedScores:
    """A criterion of scores that cost a run over data: those of a model are computed once. Threads may share it.

    Attributes:
        serves_cuts: Whether the scores of a model also rank what its cuts leave, so that these need none of their own.
    """

    def __init__(self, name: str, label_scores: LabelScores, *, serves_cuts: bool = False) -> None:
        self.__qualname__ = name
        self.serves_cuts = serves_cuts
        self._label_scores = label_scores
        self._lock = Lock()
        self._by_trace: list[tuple[Trace, np.ndarray]] = []

    def __call__(self, trace: Trace, group: Group) -> np.ndarray:
        """Importance of each channel of a group, (channels,)."""
        with self._lock:
            by_label = next((scores for other, scores in self._by_trace if other is trace), None)
            if by_label is None:
                by_label = self._label_scores(trace)
                self._by_trace = [*self._by_trace[1 - REMEMBERED :], (trace, by_label)]
        scores: np.ndarray = by_label[trace.members[group.name]]
        return scores
