"""What a batch takes in memory, and what to do when there is too little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from netadapt_onnx.data.batch_layout import samples_first
from netadapt_onnx.data.dataset import Split
from netadapt_onnx.errors import NetadaptError, one_line
from netadapt_onnx.training.length import BATCH_SIZE
from netadapt_onnx.training.ops.registry import Node
from netadapt_onnx.training.replicas import tensors
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph

# Activations of one batch, all replicas together: gradients and kernels' buffers take about as much again.
MOST_ACTIVATION_BYTES = 2 * 2**30
# How far one sample's outputs may be apart in two batches, relative to the largest of them.
ROUNDING = 1e-2


@dataclass(frozen=True)
class Footprint:
    """What a batch of a graph takes.

    Attributes:
        shapes: Shapes of its outputs by name for some samples, samples first.
        activation_bytes: What one sample's activations take in training.
        only_batch: The one batch size at which the graph runs; None: it runs at any.
    """

    shapes: dict[str, tuple[int, ...]]
    activation_bytes: int
    only_batch: int | None = None


def footprint(graph: TorchGraph, split: Split) -> Footprint:
    """Run a graph on two samples, or on as many as it insists on, and add up.

    Raises:
        NetadaptError: It cannot be run on these either.
    """
    total = 0

    def count(_: Node, __: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
        nonlocal total
        total += sum(value.numel() * value.element_size() for value in results)

    only = only_batch(graph, split)
    rows = probed_rows(split, only)
    outputs = samples_first(graph.observe(tensors(split.batch(rows)), count), split.layout)
    return Footprint({name: tuple(value.shape) for name, value in outputs.items()}, total // len(rows), only)


def probed_rows(split: Split, only: int | None) -> np.ndarray:
    """Rows to run a graph on: two, a size that no axis is likely to have for another reason, or the `only` batch."""
    return np.resize(np.array([0, len(split) - 1]), only or 2)


def only_batch(graph: TorchGraph, split: Split, settings: Settings | None = None) -> int | None:
    """The one batch size at which a graph can be run; None if it can be run at any.

    A file may fix it, or have a constant inside that does: the graph is run on two samples, and their outputs must be
    what they are in batches of the declared size.

    Raises:
        NetadaptError: The graph cannot be run in batches of the declared size either.
    """
    layout, rows = split.layout, probed_rows(split, None)
    declared = graph.fixed_batch or (None if layout is None else layout.batch)

    def outputs(chosen: np.ndarray) -> dict[str, Tensor]:
        return samples_first(graph.observe(tensors(split.batch(chosen), settings), lambda *_: None), layout)

    two, why = _outputs_or_error(lambda: outputs(rows), None if layout is None else 2)
    if two is not None and (declared is None or layout is None):
        return None
    batch = declared or 1

    def one_batch_at_a_time() -> dict[str, Tensor]:
        parts = [outputs(np.resize(piece, batch)) for piece in np.split(rows, 2 if batch == 1 else 1)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    # Without a layout it is unknown which of the outputs belong to which sample.
    alone, also = (None, why) if layout is None else _outputs_or_error(one_batch_at_a_time, max(2, batch))
    if alone is None and declared is None and why is not None:
        raise why  # it is not a matter of the batch
    if alone is None:
        raise NetadaptError(
            f"the file fixes its batch at {batch}, and training found no way to run it on two samples: "
            f"{one_line(also or why or Exception(), 100)}",
            hint="export it again with a dynamic batch, as the command export does",
            code="unsupported",
        ) from also
    alike = two is not None and all(_alike(value, alone[name][:2]) for name, value in two.items())
    return None if alike else batch


def _outputs_or_error(
    compute: Callable[[], dict[str, Tensor]], samples: int | None
) -> tuple[dict[str, Tensor] | None, Exception | None]:
    """Outputs of so many samples, or else the error: whatever operators raise of shapes that do not fit."""
    try:
        outputs = compute()
    except Exception as error:
        if out_of_memory(error):
            raise
        return None, error
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    other = None if samples is None else next((n for n, shape in shapes.items() if shape[:1] != (samples,)), None)
    if other is not None:
        return None, ValueError(f"output '{other}' of shape {shapes[other]} does not hold {samples} samples")
    return outputs, None


def _alike(value: Tensor, reference: Tensor) -> bool:
    """Whether two outputs differ by rounding alone."""
    a, b = value.double(), reference.double()
    if a.shape != b.shape:
        return False
    return bool(((a - b).abs() <= ROUNDING * b.abs().max().clamp_min(1e-6)).all())


def fitting_batch_size(footprint: Footprint, split: Split) -> int:
    """The usual batch, or less where its activations would not fit; it depends on the model alone."""
    fitting = MOST_ACTIVATION_BYTES // max(1, footprint.activation_bytes)
    return int(np.clip(fitting, 8, min(BATCH_SIZE, len(split)))) if len(split) > 8 else len(split)


def in_whole_batches(size: int, only: int | None) -> int:
    """A batch of about `size` samples: a multiple of the `only` batch size at which a graph runs, if there is such."""
    return size if only is None else max(only, size // only * only)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed: torch's CPU allocator raises a plain RuntimeError."""
    text = str(error)
    is_out_of_memory = "not enough memory" in text or "allocate memory" in text
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_out_of_memory


def halve_batch(size: int, has_batchnorm: bool, log: Callable[[str], None] | None, multiple: int = 1) -> int:
    """The next smaller batch size.

    Args:
        size: The size for which memory ran out.
        has_batchnorm: Whether the network has BatchNorm, which needs two samples.
        log: Called with a line about it.
        multiple: Batches hold a multiple of so many samples.

    Raises:
        NetadaptError: There is none.
    """
    smaller = size // 2 // multiple * multiple
    if smaller < (2 if has_batchnorm else 1):
        raise NetadaptError(
            f"out of memory, even with batches of {size}", hint="use a machine with more memory", code="out-of-memory"
        )
    if log is not None:
        log(f"out of memory with batches of {size}: training starts anew with batches of {smaller}")
    return smaller
