"""Activations of named tensors on calibration inputs, batch by batch: of a model at once, or part by part."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx

from netadapt_onnx.common.progress import counting
from netadapt_onnx.graph.extract import between, boundary
from netadapt_onnx.graph.fold_shapes import follows_batch
from netadapt_onnx.graph.inputs import dynamic_batch_inputs
from netadapt_onnx.graph.runtime import Arrays, run, session
from netadapt_onnx.surgery.trace import Trace

BATCH = 64
# Beyond this the activations between two parts of a model are not kept but computed again.
MOST_KEPT_BYTES = 2**30


def activations(trace: Trace, inputs: Arrays, names: Sequence[str]) -> Iterator[tuple[int, Arrays]]:
    """Run a model over calibration inputs and hand out tensors inside it.

    Args:
        trace: The model.
        inputs: The calibration inputs, samples first.
        names: The tensors; none are computed if there are none.

    Yields:
        A block's number and the activations by name. A block is `BATCH` inputs, however many of them the file takes at
        once: what is drawn at random by its number is the same for a batch that is written into the file as for one
        that is open.
    """
    names = list(dict.fromkeys(names))
    if not names:
        return
    as_they_are = {name for name in names if name in inputs}
    computed = [name for name in names if name not in as_they_are]
    active = session(trace.folded.proto, outputs=computed)
    blocks, batches = _batches(trace, inputs)
    for number, part in zip(blocks, counting("looking at activations", batches), strict=True):
        yield number, run(active, part, computed) | {name: part[name] for name in as_they_are}


class PartialRuns:
    """Runs a model part by part on calibration inputs; what lies behind a part may change before the next one runs.

    The tensors between two parts are kept (up to MOST_KEPT_BYTES), so that each node runs about once in all.
    """

    def __init__(self, trace: Trace, inputs: Arrays) -> None:
        self._blocks, self._computed = _batches(trace, inputs)

    def advance(self, proto: onnx.ModelProto, front: Collection[int]) -> Iterator[tuple[int, Arrays]]:
        """Run the nodes that are in front and have not run yet.

        Args:
            proto: The model as it is now.
            front: The numbers of the nodes in front, which never change again; the next call's contain this one's.

        Yields:
            A block's number and, by name, what the nodes in front hand on to the others.
        """
        names = boundary(proto, front)
        missing = [name for name in names if name not in self._computed[0]]
        part = between(proto, self._computed[0], missing, self._computed[-1])
        active = session(part, outputs=missing) if missing else None
        inputs = [value.name for value in part.graph.input]
        kept: list[Arrays] | None = []
        size = 0
        for number, computed in zip(self._blocks, self._computed, strict=True):
            arrays = {} if active is None else run(active, {name: computed[name] for name in inputs}, missing)
            arrays |= {name: computed[name] for name in names if name in computed}
            size += sum(value.nbytes for value in arrays.values())
            kept = None if kept is None or size > MOST_KEPT_BYTES else [*kept, arrays]
            yield number, arrays
        if kept is not None:
            self._computed = kept


def _batches(trace: Trace, inputs: Arrays) -> tuple[list[int], list[Arrays]]:
    """The block that each batch belongs to, and the batches."""
    proto, count = trace.folded.proto, len(next(iter(inputs.values())))
    size, end = BATCH, count
    dynamic = len(dynamic_batch_inputs(proto)) == len(trace.folded.specs)
    if not dynamic or not follows_batch(trace.folded):  # a batch written into the file: only full ones run
        size = next(iter(trace.folded.specs.values()))[0][0]
        end = count // size * size
    starts = range(0, end, size)
    batches = [{name: values[start : start + size] for name, values in inputs.items()} for start in starts]
    return [start // BATCH for start in starts], batches
