"""What models without some branches are predicted to cost."""

from __future__ import annotations

from itertools import combinations

import models
from netadapt_onnx.graph.cost import CostModel
from netadapt_onnx.graph.weightless import WEIGHT_BYTES, raw_bytes
from netadapt_onnx.search.predictor import Predictor
from netadapt_onnx.surgery.residual_branches import find_branches, traced_without
from tracing import trace_model


def test_models_without_branches_are_counted_as_they_are_and_kept_without_their_weights() -> None:
    """A search asks for dozens of them, each of which would be a copy of all weights."""
    traced = trace_model(models.resnet((32, 48, 64)))
    branches = find_branches(traced)
    predict = Predictor(traced, branches=branches)
    widths = {group.name: group.channels for group in traced.prunable} | {branch.name: 1 for branch in branches}
    for gone in combinations([branch.name for branch in branches], 2):
        amounts = predict(widths | dict.fromkeys(gone, 0))
        smaller = traced_without(traced, gone)
        assert amounts == {
            name: float(value) for name, value in CostModel(smaller.flat.proto)(smaller.flat.shapes).resources.items()
        }
    kept = [trace for removed, (trace, _, _) in predict._counts.items() if removed]
    sizes = [raw_bytes(tensor) or 0 for trace in kept for tensor in trace.flat.proto.graph.initializer]
    assert kept and max(sizes) <= WEIGHT_BYTES
