"""What a batch takes in memory, and what to do when there is too little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.runtime import one_line
from netadapt_onnx.training.data import Split
from netadapt_onnx.training.ops.registry import Node
from netadapt_onnx.training.replicas import tensors
from netadapt_onnx.training.torch_graph import TorchGraph

BATCH_SIZE = 128
# Activations of one batch, all replicas together: gradients and kernels' buffers take about as much again.
MOST_ACTIVATION_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Footprint:
    """Shapes of a graph's outputs for two samples, and what one sample's activations take in training."""

    shapes: dict[str, tuple[int, ...]]
    activation_bytes: int


def footprint(graph: TorchGraph, split: Split) -> Footprint:
    """Run the graph on two samples and add up.

    Raises NetadaptError where a batch written into the file keeps it from being run on two.
    """
    rows = np.array([0, len(split) - 1])  # two: no axis of the model is likely to be that long for another reason
    total = 0

    def count(_: Node, __: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
        nonlocal total
        total += sum(value.numel() * value.element_size() for value in results)

    try:
        found = graph.observe(tensors(split.batch(rows)), count)
    except RuntimeError as error:
        if out_of_memory(error) or graph.fixed_batch is None:
            raise
        raise NetadaptError(
            f"the file fixes its batch at {graph.fixed_batch}, and training found no way to run it on two samples: "
            f"{one_line(error, 100)}",
            hint="re-export with a dynamic batch (`netadapt-onnx export` makes one)",
            code="unsupported",
        ) from error
    return Footprint({name: tuple(value.shape) for name, value in found.items()}, total // 2)


def batch_size(footprint: Footprint, split: Split) -> int:
    """The usual batch, or less where its activations would not fit; it depends on the model alone."""
    fitting = MOST_ACTIVATION_BYTES // max(1, footprint.activation_bytes)
    return int(np.clip(fitting, 8, min(BATCH_SIZE, len(split)))) if len(split) > 8 else len(split)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed: torch's CPU allocator raises a plain RuntimeError."""
    text = str(error)
    told = "not enough memory" in text or "allocate memory" in text
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or told


def halved(size: int, normalised: bool, say: Callable[[str], None] | None) -> int:
    """The next smaller batch. Raises NetadaptError where there is none: BatchNorm needs two samples."""
    smaller = size // 2
    if smaller < (2 if normalised else 1):
        raise NetadaptError(
            f"out of memory, even with batches of {size}", hint="use a machine with more memory", code="out-of-memory"
        )
    if say is not None:
        say(f"out of memory with batches of {size}: training starts anew with batches of {smaller}")
    return smaller
