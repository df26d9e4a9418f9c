"""A run of `adapt` is read back in the units of its final measurement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from netadapt_onnx.api.report import read_run
from netadapt_onnx.reporting.adapt_run import AdaptRun, points, time_scales
from netadapt_onnx.search.result import Latency, Limit
from netadapt_onnx.search.run_directory.layer_changes import Details, LayerChange
from report_runs import finished


def test_predictions_are_drawn_in_the_ms_of_the_final_measurement(tmp_path: Path) -> None:
    """The table was measured in a slower hour: by it the original takes 12 ms and the limit is a share of 10."""
    run = finished(tmp_path)
    adapt_run = read_run(run)
    assert isinstance(adapt_run, AdaptRun)
    latency = Latency(10.0, 5.0, (4.9, 5.1), 0.5, (0.49, 0.51), 6.0, 3)
    limit = Limit("latency=0.5x", 5.0, 5.1, False)
    result = replace(adapt_run.result, latencies={"latency": latency}, limits=(limit,))
    layers = tuple(LayerChange(n, "Conv", n, (9, 5), (9, 5), {"latency": (6.0, 3.0)}) for n in ("conv1", "conv2"))
    assert time_scales(result, Details(layers)) == {"latency": pytest.approx(10 / 12)}
    assert time_scales(replace(result, limits=(replace(limit, budget="latency=5ms"),)), Details(layers)) == {}
    steps = tuple(replace(s, resources={**s.resources, "latency": 7.2}) for s in adapt_run.steps)
    accepted = [p for p in points(result, steps, {"latency": 10 / 12}) if p.kind == "accepted"]
    assert [p.resources["latency"] for p in accepted] == pytest.approx([6.0] * len(steps))
    assert all(p.resources["macs"] == s.resources["macs"] for p, s in zip(accepted, steps, strict=True))
