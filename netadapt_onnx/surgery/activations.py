"""What a model computes inside: the activations of named tensors on calibration inputs, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netadapt_onnx.model import dynamic_batch_inputs
from netadapt_onnx.runtime import Arrays, run, session
from netadapt_onnx.surgery.trace import Trace

BATCH = 64


def activations(trace: Trace, inputs: Arrays, names: Sequence[str]) -> Iterator[tuple[int, Arrays]]:
    """(batch number, activations by name) of the model over the calibration inputs."""
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return
    given = {name for name in wanted if name in inputs}
    computed = [name for name in wanted if name not in given]
    active = session(trace.folded.proto, outputs=computed)
    count = len(next(iter(inputs.values())))
    size, whole = BATCH, count
    if not _any_batch(trace):  # a batch written into the file: only full ones can run
        size = next(iter(trace.folded.specs.values()))[0][0]
        whole = count // size * size
    for number, start in enumerate(range(0, whole, size)):
        part = {name: values[start : start + size] for name, values in inputs.items()}
        yield number, run(active, part, computed) | {n: part[n] for n in given}


def _any_batch(trace: Trace) -> bool:
    return len(dynamic_batch_inputs(trace.folded.proto)) == len(trace.folded.specs)
