"""Measured latencies are drawn: every session, predictions against measurements, and where the time goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from netadapt_onnx.api.report import read_run
from netadapt_onnx.common import render
from netadapt_onnx.profilers.statistics import Ratio, Timing
from netadapt_onnx.reporting import adapt_charts
from netadapt_onnx.reporting.adapt_run import AdaptRun, Measurement
from netadapt_onnx.reporting.adapt_sections import adapt_sections
from netadapt_onnx.reporting.page import ChartRenderer
from netadapt_onnx.search.result import Latency
from netadapt_onnx.search.run_directory.layer_changes import Details, LayerChange, TrainedEpoch
from netadapt_onnx.training.validation import Evaluation
from report_runs import finished


def test_measured_latencies_are_drawn(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun) and adapt_run.result is not None
    times = (5.0, 5.1, 5.2), (10.0, 10.1, 10.4)
    timing, other = Timing(5.1, (5.0, 5.2), 3), Timing(10.1, (10.0, 10.4), 3)
    ratio = Ratio(0.505, (0.5, 0.51), timing, other, times)
    steps = tuple(
        replace(
            s,
            resources={**s.resources, "latency": 5.5},
            accepted=replace(s.accepted, measured={"latency": 5.2}, measured_ci95={"latency": (5.1, 5.3)}),
        )
        for s in adapt_run.steps
    )
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
    drawn = {row["model"]: row["measured latency (ms)"] for row in spec["data"]["values"]}
    assert drawn["iteration 1"] == 5.2 and drawn["result"] == 5.1
    titles = "".join(adapt_sections(adapt_run, ChartRenderer().figure, with_name=False))
    assert "Latency: predicted and measured" in titles and "Final training" in titles


def test_on_a_busy_device_the_fastest_runs_are_drawn(tmp_path: Path) -> None:
    """They are what the times of the result are of."""
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun) and adapt_run.result is not None
    timing = Timing(5.1, (5.0, 5.2), 2)
    ratio = Ratio(0.5, (0.49, 0.51), timing, timing, ((5.0, 5.2), (10.0, 10.4)), ((4.0, 4.1), (8.0, 8.2)))
    latency = Latency(8.1, 4.05, (4.0, 4.1), 0.5, (0.49, 0.51), 4.0, 2, disturbance=0.2)
    adapt_run = replace(
        adapt_run,
        result=replace(adapt_run.result, latencies={"latency": latency}),
        measurements=(Measurement("latency", "final", 1, ratio),),
    )
    spec = adapt_charts.distributions(adapt_run, "latency")
    assert spec is not None and "fastest" in spec["title"]
    assert sorted(row["latency (ms)"] for row in spec["data"]["values"]) == [4.0, 4.1, 8.0, 8.2]


def test_original_and_result_are_labelled_and_the_budget_has_its_unit(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun)
    spec = adapt_charts.accuracy_against(adapt_run, "macs")
    texts = [row["text"] for layer in spec["layer"] for row in layer["data"]["values"] if "text" in row]
    limit = adapt_run.budgets[0].limit
    assert limit is not None
    assert f"budget 0.6x = {render.count(limit)}" in texts
    assert [text.split(":")[0] for text in texts if ":" in text] == ["original", "result"]
    narrow = adapt_charts.accuracy_against(adapt_run, "macs", adapt_charts.NARROW)
    assert narrow["width"] < 390 < spec["width"]


def test_the_course_of_a_training_marks_the_state_that_was_kept(tmp_path: Path) -> None:
    adapt_run = read_run(finished(tmp_path))
    assert isinstance(adapt_run, AdaptRun)
    assert adapt_charts.training_accuracy(adapt_run) is None
    evaluations = (Evaluation(0, 0.5), Evaluation(10, 0.75), Evaluation(20, 0.625))
    spec = adapt_charts.training_accuracy(replace(adapt_run, evaluations=evaluations))
    assert spec is not None
    kept = [layer["data"]["values"] for layer in spec["layer"] if "data" in layer]
    assert kept == [[{"training step": 10, adapt_charts.accuracy_title(adapt_run.metric): 0.75}]] * 2
