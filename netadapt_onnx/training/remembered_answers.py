"""What the original computes for every training sample, once: answers and, for matching, features.

onnxruntime takes a tenth of the time that a training step takes for a sample (an EfficientNet-Lite0, one core: 11 ms
against 110), so that every view of a picture may have an answer of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from torch import Tensor

from netadapt_onnx.common.parallel import in_order
from netadapt_onnx.common.progress import stage
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.data.evaluate import Compute, batch_size, outputs
from netadapt_onnx.graph.runtime import Arrays, run, session
from netadapt_onnx.training.feature_matching import MatchedFeature, with_features, with_outputs
from netadapt_onnx.training.replicas import tensors
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph

if TYPE_CHECKING:
    import onnxruntime

# What may be remembered of a training set: 16,000 answers of 1,000 classes with 1,280 features each take 150 MB.
MOST_BYTES = 256 * 2**20


def bytes_per_sample(shapes: Mapping[str, tuple[int, ...]], features: Sequence[MatchedFeature] = ()) -> int:
    """What the answers and the features of one sample take.

    Args:
        shapes: Shapes of the outputs by name, samples first.
        features: The features that are matched.
    """
    values = sum(math.prod(shape[1:]) for shape in shapes.values()) + sum(one.size for one in features)
    return 4 * values


class RememberedAnswers:
    """The targets of a distillation: outputs and matched features of the original, computed in batches.

    The batches are always the same ones: what is computed of a sample may depend on those beside it, in the last bits,
    and a training that is resumed must get the same. They hold what is needed at the same time, so that a training of
    less than an epoch asks for little that it does not show. Several threads may ask at once.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        split: Split,
        features: Sequence[MatchedFeature],
        settings: Settings,
        order: np.ndarray,
        pair_offset: int | None = None,
    ) -> None:
        """Compute nothing yet.

        Args:
            proto: The original, normalised.
            split: The training samples, all views of them.
            features: Features that are remembered with the answers, at the channels that are matched.
            settings: How this machine trains: by onnxruntime with a thread per replica, or by torch on a GPU.
            order: All rows of the split in the order in which they are needed, (N,); those of pairs come together.
            pair_offset: Two views of a picture that are so many rows apart, the first in an even multiple of it, get
                the mean of their answers; None: each has its own.
        """
        self._proto = with_outputs(proto, [one.name for one in features])
        self._split = with_features(split, features)
        self._features = {one.name: one for one in features}
        self._pair_offset = pair_offset
        self._lock = Lock()
        self._block = batch_size(proto, split)
        if pair_offset is not None:
            firsts = order[order // pair_offset % 2 == 0]
            order = np.stack([firsts, firsts + pair_offset], axis=1).reshape(-1)
        self._order, self._position = order, np.argsort(order)
        self._is_remembered = np.zeros(-(-len(split) // self._block), dtype=bool)
        self._memory: dict[str, Tensor] = {}
        layout = self._split.layout
        names = None if layout is None else [*layout.outputs]
        self._compute = _by_onnxruntime(settings.replicas, names) if settings.device == "cpu" else _by_torch(settings)

    def __call__(self, _: Mapping[str, Tensor], rows: np.ndarray, settings: Settings) -> dict[str, Tensor]:
        """The outputs and features of training samples by name, (N, ...), samples first; see `DistillationTargets`."""
        self.remember(rows)
        answers = {name: values[torch.from_numpy(rows)] for name, values in self._memory.items()}
        if self._pair_offset is not None:
            partners = torch.from_numpy(self._partners(rows))
            answers = {name: self._paired(name, value, partners) for name, value in answers.items()}
        return {name: value.to(settings.device) for name, value in answers.items()}

    def remember(self, rows: np.ndarray) -> None:
        """Compute what is needed for some rows and is not remembered yet."""
        with self._lock:
            self._remember(rows)

    def _remember(self, rows: np.ndarray) -> None:
        paired = rows if self._pair_offset is None else np.concatenate([rows, self._partners(rows)])
        blocks = np.unique(self._position[paired] // self._block)
        blocks = blocks[~self._is_remembered[blocks]]
        if not len(blocks):
            return
        positions = (blocks[:, None] * self._block + np.arange(self._block)).reshape(-1)
        missing = self._order[positions[positions < len(self._split)]]
        with stage("asking the original"):
            answers = outputs(self._proto, self._split.subset(missing), compute=self._compute)
        for name, value in answers.items():
            feature = self._features.get(name)
            kept = value if feature is None else feature.of_teacher(value)
            if name not in self._memory:
                self._memory[name] = torch.zeros(len(self._split), *kept.shape[1:])
            self._memory[name][torch.from_numpy(missing)] = torch.from_numpy(np.ascontiguousarray(kept, np.float32))
        self._is_remembered[blocks] = True

    def _paired(self, name: str, value: Tensor, partners: Tensor) -> Tensor:
        """The mean of a picture's and its mirror image's outputs; features stay each view's own."""
        return value if name in self._features else (value + self._memory[name][partners]) / 2

    def _partners(self, rows: np.ndarray) -> np.ndarray:
        """The rows of the other views of the same pairs."""
        offset = self._pair_offset or 0
        return np.where(rows // offset % 2 == 0, rows + offset, rows - offset)


def _by_onnxruntime(threads: int, names: Sequence[str] | None) -> Compute:
    """A `Compute` that opens a session for the first model and keeps it; `names` are the outputs, None for all."""
    sessions: list[onnxruntime.InferenceSession] = []

    def compute(proto: onnx.ModelProto, batches: Iterable[Arrays]) -> Iterator[Arrays]:
        if not sessions:
            sessions.append(session(proto, threads=1))
        return in_order(lambda inputs: run(sessions[0], inputs, names), batches, threads)

    return compute


def _by_torch(settings: Settings) -> Compute:
    """A `Compute` on the device of a training: a GPU answers sooner than onnxruntime does beside it."""
    graphs: list[TorchGraph] = []

    def compute(proto: onnx.ModelProto, batches: Iterable[Arrays]) -> Iterator[Arrays]:
        if not graphs:
            graphs.append(TorchGraph(proto).eval().requires_grad_(False).to(settings.device))
            graphs[0].arrange(settings.channels_last)
        for inputs in batches:
            with torch.no_grad():
                answers = graphs[0](tensors(inputs, settings))
            yield {name: value.float().cpu().numpy() for name, value in answers.items()}

    return compute
