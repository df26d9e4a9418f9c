"""Features in front of the head, matched with those of the original beside its answers.

Few samples say little by their answers: 300 pictures give as many of them, and 384,000 features. PRACTISE (Wang & Wu,
CVPR 2023) matches features alone. Which of the original's channels a cut network kept need not be known: each of its
channels is paired with one that computes about the same, in their order, which a cut does not change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from netadapt_onnx.data.batch_layout import BatchAxis
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.training.loss import Targets, TaskLoss

# Samples by which channels are paired and variances computed, and how many there must be at least.
SAMPLES, FEWEST_SAMPLES = 256, 16
# Channels that correlate less are not compared: training would pull them to what they never were.
LEAST_CORRELATION = 0.3
# The weight of a feature's squared error, in units of its variance, beside the loss of the answers.
SHARE = 1.0
# Layers with weights, and the number of the input that holds them.
_LAYERS = {"Conv": 1, "Gemm": 1, "MatMul": 1}


@dataclass(frozen=True)
class MatchedFeature:
    """A tensor that both networks have, and the channels that are compared.

    Attributes:
        name: The tensor.
        shape: Its shape in the cut network without the axis of samples; the channels come first.
        own: Channels of the cut network.
        teacher: The original's channel for each of them.
        variance: The mean variance of the original's channels over samples: the unit of the squared error.
    """

    name: str
    shape: tuple[int, ...]
    own: NDArray[np.int64]
    teacher: NDArray[np.int64]
    variance: float

    @property
    def size(self) -> int:
        """The numbers that are compared for one sample."""
        return len(self.own) * math.prod(self.shape[1:])

    def of_teacher(self, value: np.ndarray) -> np.ndarray:
        """The original's tensor, (N, channels, ...), at the channels that are compared."""
        return value[:, self.teacher]

    def error(self, own: Tensor, teacher: Tensor) -> Tensor:
        """The mean squared error in units of the variance; `teacher` holds the compared channels alone."""
        return F.mse_loss(own[:, self.own].float(), teacher.float()) / self.variance


@dataclass(frozen=True)
class FeatureLoss:
    """A task's loss and the features' errors, over outputs that hold both by name; it takes the place of a `TaskLoss`.

    Attributes:
        task: The loss of the outputs proper.
        features: What is matched.
    """

    task: TaskLoss
    features: Sequence[MatchedFeature]

    def __call__(
        self, outputs: Mapping[str, Tensor], labels: Targets | None, teacher: Mapping[str, Tensor] | None
    ) -> Tensor:
        """The mean loss of a batch; see `TaskLoss`."""
        names = {one.name for one in self.features}
        loss = self.task({name: value for name, value in outputs.items() if name not in names}, labels, teacher)
        for one in self.features:
            if teacher is not None:
                loss = loss + SHARE * one.error(outputs[one.name], teacher[one.name])
        return loss


def matched_features(student: onnx.ModelProto, teacher: onnx.ModelProto, split: Split) -> tuple[MatchedFeature, ...]:
    """The inputs of the layers that put out what the model puts out, as far as the original has them and they agree.

    None where a model runs at one batch size only, or where samples are too few to pair channels by.

    Args:
        student: The network that is trained, normalised.
        teacher: The original, normalised.
        split: Training samples, as they are.
    """
    names = [name for name in head_inputs(student) if name in head_inputs(teacher)]
    sample = split.sample(SAMPLES)
    if not names or len(sample) < FEWEST_SAMPLES or split.varies:
        return ()
    if split.layout is not None and split.layout.batch is not None:
        return ()
    own, originals = (_computed(proto, names, sample) for proto in (student, teacher))
    matched = (_matched(name, own[name], originals[name], len(sample)) for name in names)
    return tuple(one for one in matched if one is not None)


def head_inputs(proto: onnx.ModelProto) -> list[str]:
    """The inputs of the last layers with weights in front of each output; inputs of the model are none."""
    producers = {name: node for node in proto.graph.node for name in node.output if name}
    constants = {tensor.name for tensor in proto.graph.initializer}
    names: list[str] = []
    for output in proto.graph.output:
        node = producers.get(output.name)
        while node is not None:
            slot = _LAYERS.get(node.op_type)
            if slot is not None and len(node.input) > slot and node.input[slot] in constants:
                names += [node.input[0]] if node.input[0] in producers else []
                break
            computed = [name for name in node.input if name in producers]
            node = producers[computed[0]] if len(computed) == 1 else None
    put_out = {value.name for value in proto.graph.output}
    return [name for name in dict.fromkeys(names) if name not in put_out]


def with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy that puts out other tensors too; `proto` itself without names."""
    if not names:
        return proto
    extended = onnx.ModelProto()
    extended.CopyFrom(proto)
    extended.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return extended


def with_features(split: Split, features: Sequence[MatchedFeature]) -> Split:
    """The same samples for models that put out features too."""
    if split.layout is None or not features:
        return split
    outputs = {**split.layout.outputs, **{one.name: BatchAxis() for one in features}}
    return replace(split, layout=replace(split.layout, outputs=outputs))


def _computed(proto: onnx.ModelProto, names: Sequence[str], split: Split) -> dict[str, NDArray[Any]]:
    """Tensors of a model for all samples of a split."""
    active = session(proto, outputs=names)
    parts = [run(active, inputs, names) for inputs, _ in split.batches(32)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _matched(name: str, own: NDArray[Any], teacher: NDArray[Any], samples: int) -> MatchedFeature | None:
    """The pairs of channels of one tensor; None where the networks' tensors cannot be compared."""
    comparable = own.ndim in (2, 4) and own.dtype == teacher.dtype == np.float32 and own.shape[2:] == teacher.shape[2:]
    if not comparable or len(own) != samples or len(teacher) != samples or own.shape[1] > teacher.shape[1]:
        return None
    mine, theirs = (value.reshape(*value.shape[:2], -1).mean(2).astype(np.float64) for value in (own, teacher))
    correlation = _standardised(mine).T @ _standardised(theirs) / samples
    channels = increasing_pairs(correlation)
    alike = correlation[np.arange(len(channels)), channels] >= LEAST_CORRELATION
    variance = float(teacher[:, channels[alike]].astype(np.float64).var(0).mean()) if alike.any() else 0.0
    if not variance > 0:
        return None
    return MatchedFeature(name, own.shape[1:], np.flatnonzero(alike), channels[alike], variance)


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns with a mean of 0 and a deviation of 1; constant ones are 0."""
    centred = values - values.mean(0)
    deviation = centred.std(0)
    standardised: NDArray[np.float64] = np.zeros_like(centred)
    np.divide(centred, deviation, out=standardised, where=deviation > 1e-6)
    return standardised


def increasing_pairs(gain: NDArray[np.float64]) -> NDArray[np.int64]:
    """A column for each row, in increasing order, with the largest sum of gains: by dynamic programming.

    Args:
        gain: (rows, columns), no more rows than columns.

    Returns:
        The columns, (rows,).
    """
    rows, columns = gain.shape
    chosen = np.zeros((rows, columns), dtype=np.int64)
    total = np.zeros(columns)  # of the rows before, all within the columns before
    for row in range(rows):
        sums = np.where(np.arange(columns) >= row, total + gain[row], -np.inf)
        best = np.maximum.accumulate(sums)
        first = np.concatenate([[True], best[1:] > best[:-1]])
        chosen[row] = np.maximum.accumulate(np.where(first, np.arange(columns), 0))
        total = np.concatenate([[-np.inf], best[:-1]])
    result, end = np.zeros(rows, dtype=np.int64), columns - 1
    for row in range(rows - 1, -1, -1):
        result[row] = chosen[row, end]
        end = result[row] - 1
    return result
