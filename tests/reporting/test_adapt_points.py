"""The models of a run are points of one split, in the units of its final measurement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from netadapt_onnx.api.report import read_run
from netadapt_onnx.reporting.adapt_points import finished_points, searched_points, time_scales
from netadapt_onnx.reporting.adapt_run import AdaptRun
from netadapt_onnx.search.result import Latency, Limit
from netadapt_onnx.search.run_directory.layer_changes import Details, LayerChange
from report_runs import finished

LATENCY = Latency(10.0, 5.0, (4.9, 5.1), 0.5, (0.49, 0.51), 6.0, 3)
LIMIT = Limit("latency=0.5x", 5.0, 5.1, False)


@pytest.fixture
def adapt_run(tmp_path: Path) -> AdaptRun:
    run = read_run(finished(tmp_path))
    assert isinstance(run, AdaptRun) and run.result is not None
    return run


def test_times_are_scaled_to_the_hour_of_the_final_measurement(adapt_run: AdaptRun) -> None:
    """The table was measured in a slower hour: by it the original takes 12 ms and the limit is a share of 10."""
    assert adapt_run.result is not None
    result = replace(adapt_run.result, latencies={"latency": LATENCY}, limits=(LIMIT,))
    layers = tuple(LayerChange(n, "Conv", n, (9, 5), (9, 5), {"latency": (6.0, 3.0)}) for n in ("conv1", "conv2"))
    assert time_scales(result, Details(layers), {}) == {"latency": pytest.approx(10 / 12)}
    assert time_scales(result, Details(layers), {"latency": 12.5}) == {"latency": pytest.approx(0.8)}
    absolute = replace(result, limits=(replace(LIMIT, budget="latency=5ms"),))
    assert time_scales(absolute, Details(layers), {"latency": 12.5}) == {}
    assert time_scales(None, Details(layers), {"latency": 12.5}) == {}


def test_accepted_models_have_what_was_measured_and_proposals_what_was_predicted(adapt_run: AdaptRun) -> None:
    step = adapt_run.steps[0]
    tried = tuple(replace(one, resources={**one.resources, "latency": 7.2}) for one in step.tried)
    accepted = replace(step.accepted, measured={"latency": 6.6}, measured_ci95={"latency": (6.5, 6.7)})
    step = replace(step, resources={**step.resources, "latency": 7.2}, tried=tried, accepted=accepted)
    points = searched_points([step], {}, None, {"latency": 10 / 12})
    latencies = {point.kind: point.resources["latency"] for point in points}
    assert latencies == {"proposal": pytest.approx(6.0), "accepted": pytest.approx(5.5)}
    assert [point.measured for point in points if point.kind == "accepted"] == [("latency",)]
    assert all(point.resources["macs"] == step.resources["macs"] for point in points if point.kind == "accepted")


def test_the_original_and_the_result_are_points_of_the_validation_split(adapt_run: AdaptRun) -> None:
    assert adapt_run.result is not None
    model = replace(adapt_run.result.models[0], validation=0.625)
    result = replace(adapt_run.result, models=(model,))
    first, *_, last = finished_points(result, adapt_run.points[1:-1], {"latency@pi": 12.5, "macs": 1.0}, 0.75)
    assert first.resources["latency@pi"] == 12.5  # which nobody has measured
    assert first.resources["macs"] == adapt_run.result.before.macs
    assert (first.kind, first.accuracy) == ("original", 0.75)
    assert (last.kind, last.accuracy) == ("result", 0.625)
    assert last.resources["macs"] == adapt_run.result.after.macs
