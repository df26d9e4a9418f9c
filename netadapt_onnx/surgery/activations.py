"""What a model computes inside: the activations of named tensors on calibration inputs, batch by batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx

from netadapt_onnx.common.progress import counting
from netadapt_onnx.graph.extract import between, boundary
from netadapt_onnx.graph.fold import follows_batch
from netadapt_onnx.graph.inputs import dynamic_batch_inputs
from netadapt_onnx.graph.runtime import Arrays, run, session
from netadapt_onnx.surgery.trace import Trace

BATCH = 64
# Beyond this the activations between two parts of a model are not kept but computed again.
MOST_KEPT_BYTES = 2**30


def activations(trace: Trace, inputs: Arrays, names: Sequence[str]) -> Iterator[tuple[int, Arrays]]:
    """(block number, activations by name) of the model over the calibration inputs.

    A block is `BATCH` inputs, however many of them the file takes at once: what is drawn at random by its number is the
    same for a batch that is written into the file as for one that is open.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return
    given = {name for name in wanted if name in inputs}
    computed = [name for name in wanted if name not in given]
    active = session(trace.folded.proto, outputs=computed)
    blocks, batches = _batches(trace, inputs)
    for number, part in zip(blocks, counting("looking at activations", batches), strict=True):
        yield number, run(active, part, computed) | {name: part[name] for name in given}


class Advance:
    """Computes a model part by part on calibration inputs; what lies behind may change after each.

    The tensors between two parts are kept (up to MOST_KEPT_BYTES), so that each node runs about once in all.
    """

    def __init__(self, trace: Trace, inputs: Arrays) -> None:
        self._blocks, self._known = _batches(trace, inputs)

    def to(self, proto: onnx.ModelProto, front: Collection[int]) -> Iterator[tuple[int, Arrays]]:
        """(block number, what the nodes numbered `front` hand on to the others). They never change again.

        The next call's `front` contains this one's.
        """
        wanted = boundary(proto, front)
        missing = [name for name in wanted if name not in self._known[0]]
        part = between(proto, self._known[0], missing, self._known[-1])
        active = session(part, outputs=missing) if missing else None
        inputs = [value.name for value in part.graph.input]
        kept: list[Arrays] | None = []
        size = 0
        for number, known in zip(self._blocks, self._known, strict=True):
            found = {} if active is None else run(active, {name: known[name] for name in inputs}, missing)
            found |= {name: known[name] for name in wanted if name in known}
            size += sum(value.nbytes for value in found.values())
            kept = None if kept is None or size > MOST_KEPT_BYTES else [*kept, found]
            yield number, found
        if kept is not None:
            self._known = kept


def _batches(trace: Trace, inputs: Arrays) -> tuple[list[int], list[Arrays]]:
    """The block that each batch belongs to, and the batches."""
    proto, count = trace.folded.proto, len(next(iter(inputs.values())))
    size, whole = BATCH, count
    dynamic = len(dynamic_batch_inputs(proto)) == len(trace.folded.specs)
    if not dynamic or not follows_batch(trace.folded):  # a batch written into the file: only full ones run
        size = next(iter(trace.folded.specs.values()))[0][0]
        whole = count // size * size
    starts = range(0, whole, size)
    batches = [{name: values[start : start + size] for name, values in inputs.items()} for start in starts]
    return [start // BATCH for start in starts], batches
