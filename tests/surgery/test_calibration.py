"""What is kept of a model that runs part by part."""

from __future__ import annotations

import weakref

import numpy as np

import models
from netadapt_onnx.graph.nodes import reads
from netadapt_onnx.surgery.calibration import PartialRuns
from tracing import trace_model


def test_what_a_batch_was_computed_from_goes_as_soon_as_it_is_computed() -> None:
    """All batches of two parts at once would be twice what is kept: gigabytes of pictures."""
    trace = trace_model(models.plain())
    proto = trace.folded.proto
    images = np.random.default_rng(0).standard_normal((6, *trace.folded.specs["image"][0][1:])).astype(np.float32)
    partial = PartialRuns(trace, {"image": images}, run_size=2)
    middle = len(proto.graph.node) // 2
    arrays = [value for _, batch in partial.advance(proto, range(middle)) for value in batch.values()]
    kept = [weakref.ref(value) for value in arrays]
    assert set(proto.graph.node[middle].input) & {name for node in proto.graph.node[:middle] for name in node.output}
    assert len(kept) == 3 and reads(proto.graph.node[middle])
    del arrays
    alive = [sum(one() is not None for one in kept) for _ in partial.advance(proto, range(middle + 1))]
    assert alive == [2, 1, 0]
