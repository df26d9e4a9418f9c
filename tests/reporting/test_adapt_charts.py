"""Measured latencies are drawn: every session, predictions against measurements, and where the time goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from netadapt_onnx.api.report import read_run
from netadapt_onnx.profilers.statistics import Ratio, Timing
from netadapt_onnx.reporting import adapt_charts
from netadapt_onnx.reporting.adapt_run import AdaptRun, Measurement
from netadapt_onnx.reporting.adapt_sections import adapt_sections
from netadapt_onnx.reporting.page import ChartRenderer
from netadapt_onnx.search.result import Latency
from netadapt_onnx.search.run_directory.layer_changes import Details, LayerChange, TrainedEpoch
from report_runs import finished


def test_measured_latencies_are_drawn(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun)
    times = (5.0, 5.1, 5.2), (10.0, 10.1, 10.4)
    timing, other = Timing(5.1, (5.0, 5.2), 3), Timing(10.1, (10.0, 10.4), 3)
    ratio = Ratio(0.505, (0.5, 0.51), timing, other, times)
    steps = tuple(replace(s, resources={**s.resources, "latency": 5.5}) for s in adapt_run.steps)
    last = len(steps)
    latency = Latency(10.1, 5.1, (5.0, 5.2), 0.505, (0.5, 0.51), 5.5, 3)
    adapt_run = replace(
        adapt_run,
        steps=steps,
        result=replace(adapt_run.result, latency=latency, latencies={"latency": latency}),
        measurements=(Measurement("latency", "brief", 1, ratio), Measurement("latency", "final", last, ratio)),
        details=Details(
            tuple(LayerChange(n, "Conv", n, (9, 5), (9, 5), {"latency": (6.0, 3.0)}) for n in ("conv1", "conv2")),
            training=(TrainedEpoch(1, 0.5, 0.02), TrainedEpoch(2, 0.4, 0.01)),
        ),
    )
    spec = adapt_charts.distributions(adapt_run, "latency")
    assert spec is not None
    assert sorted(row["latency (ms)"] for row in spec["data"]["values"]) == sorted(times[0] + times[1])
    spec = adapt_charts.predicted_against_measured(adapt_run, "latency")
    assert spec is not None
    assert {row["measured latency (ms)"] for row in spec["data"]["values"]} == {0.505 * 10.1}
    spec = adapt_charts.latency_by_layer(adapt_run, "latency")
    assert spec is not None
    assert sum(row["ms"] for row in spec["data"]["values"] if row["model"] == "original") == 12.0
    titles = "".join(adapt_sections(adapt_run, ChartRenderer().figure, with_name=False))
    assert "latency: predicted and measured" in titles and "final training" in titles
