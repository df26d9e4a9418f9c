"""Activations of named tensors on calibration inputs, batch by batch: of a model at once, or part by part."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from math import prod

import onnx

from netadapt_onnx.common.parallel import in_order
from netadapt_onnx.common.progress import counting
from netadapt_onnx.graph.extract import between, boundary
from netadapt_onnx.graph.fold_shapes import follows_batch
from netadapt_onnx.graph.inputs import dynamic_batch_inputs
from netadapt_onnx.graph.runtime import Arrays, run, session
from netadapt_onnx.surgery.trace import Trace

# Whatever is drawn at random is drawn for as many inputs at a time.
BLOCK = 64
# The activations that one run puts out take about this much. EfficientNet-Lite0, 64 pictures, the outputs of its 34
# layers: 2.2 s of CPU in one run, of which 0.9 s in the kernel for fresh pages; 1.0 s in runs of one to four pictures.
MOST_RUN_BYTES = 2**26
# Beyond this the activations between two parts of a model are not kept but computed again.
MOST_KEPT_BYTES = 2**30


def activations(
    trace: Trace, inputs: Arrays, names: Sequence[str], run_size: int | None = None
) -> Iterator[tuple[int, Arrays]]:
    """Run a model over calibration inputs and hand out tensors inside it.

    Args:
        trace: The model.
        inputs: The calibration inputs, samples first.
        names: The tensors; none are computed if there are none.
        run_size: How many inputs run at once, where the model takes any number; None: what `run_size_of` says.

    Yields:
        A block's number and the activations by name of some of its inputs, in order. A block is `BLOCK` inputs, however
        many of them the file takes at once: what is drawn at random by its number is the same for a batch that is
        written into the file as for one that is open.
    """
    names = list(dict.fromkeys(names))
    if not names:
        return
    as_they_are = {name for name in names if name in inputs}
    computed = [name for name in names if name not in as_they_are]
    active = session(trace.folded.proto, outputs=computed)
    blocks, batches = _batches(trace, inputs, run_size or run_size_of(trace, computed))

    def arrays_of(part: Arrays) -> Arrays:
        return run(active, part, computed) | {name: part[name] for name in as_they_are}

    results = in_order(arrays_of, counting("looking at activations", batches))
    yield from zip(blocks, results, strict=True)


def run_size_of(trace: Trace, names: Sequence[str]) -> int:
    """How many inputs run at once for these tensors: a power of two, so that no run takes the inputs of two blocks."""
    per_sample, size = sum(_bytes_per_sample(trace, name) for name in names), 1
    while size < BLOCK and 2 * size * per_sample <= MOST_RUN_BYTES:
        size *= 2
    return size


class PartialRuns:
    """Runs a model part by part on calibration inputs; what lies behind a part may change before the next one runs.

    The tensors between two parts are kept (up to MOST_KEPT_BYTES), so that each node runs about once in all.
    """

    def __init__(self, trace: Trace, inputs: Arrays, run_size: int) -> None:
        """Run nothing yet; so many inputs run at once, where the model takes any number."""
        self._blocks, self._computed = _batches(trace, inputs, run_size)

    def advance(self, proto: onnx.ModelProto, front: Collection[int]) -> Iterator[tuple[int, Arrays]]:
        """Run the nodes that are in front and have not run yet.

        Args:
            proto: The model as it is now.
            front: The numbers of the nodes in front, which never change again; the next call's contain this one's.

        Yields:
            A block's number and, by name, what the nodes in front hand on to the others, for some of the block's
            inputs, in order.
        """
        names = boundary(proto, front)
        missing = [name for name in names if name not in self._computed[0]]
        part = between(proto, self._computed[0], missing, self._computed[-1])
        active = session(part, outputs=missing) if missing else None
        inputs = [value.name for value in part.graph.input]

        def arrays_of(computed: Arrays) -> Arrays:
            arrays = {} if active is None else run(active, {name: computed[name] for name in inputs}, missing)
            return arrays | {name: computed[name] for name in names if name in computed}

        def waiting() -> Iterator[Arrays]:
            # Not all of them at once: what a batch came to takes the place of what it was computed from.
            for number in range(len(self._blocks)):
                yield self._computed[number]

        keeps = True
        results = in_order(arrays_of, waiting())
        for number, (block, arrays) in enumerate(zip(self._blocks, results, strict=True)):
            if number == 0:
                size = sum(value.nbytes for value in arrays.values())
                keeps = size * len(self._blocks) <= MOST_KEPT_BYTES
            if keeps:  # what was in front of this part is of no more use
                self._computed[number] = arrays
            yield block, arrays


def _bytes_per_sample(trace: Trace, name: str) -> int:
    """What a tensor takes for one input; of the same size for all of them, where it does not grow with the batch."""
    shape, dtype = trace.folded.shapes[name], trace.folded.dtypes[name]
    return prod(shape) * dtype.itemsize // max(1, shape[0] if shape else 1)


def _batches(trace: Trace, inputs: Arrays, run_size: int) -> tuple[list[int], list[Arrays]]:
    """The block that each batch belongs to, and the batches."""
    proto, count = trace.folded.proto, len(next(iter(inputs.values())))
    dynamic = len(dynamic_batch_inputs(proto)) == len(trace.folded.specs)
    if dynamic and follows_batch(trace.folded):
        size, end = run_size, count
    else:  # a batch written into the file: only full ones run
        size = next(iter(trace.folded.specs.values()))[0][0]
        end = count // size * size
    starts = range(0, end, size)
    batches = [{name: values[start : start + size] for name, values in inputs.items()} for start in starts]
    return [start // BLOCK for start in starts], batches
