"""A run of `scale`, read back from its directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from netadapt_onnx.common.charts import Spec
from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.common.resources import amounts
from netadapt_onnx.reporting.adapt_points import Point
from netadapt_onnx.reporting.recorded_run import RecordedRun, unreadable_run
from netadapt_onnx.scaling.result import PLOTS, ScaledModel, ScaleResult
from netadapt_onnx.search.run_directory.journal import read_journal


class ScaleRun(msgspec.Struct, frozen=True, rename={"charts": "drawn"}):
    """A finished run of `scale`; `charts` are the Vega-Lite specifications that it wrote, by name.

    A report holds it as JSON, in which `charts` is called `drawn`.
    """

    name: str
    result: ScaleResult
    charts: Mapping[str, Spec]
    points: tuple[Point, ...]
    identity: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def budget_resources(self) -> list[str]:
        """The resources that have a target, in the order of the targets."""
        return list(dict.fromkeys(network.target.split("=")[0] for network in self.result.models))

    @property
    def metric(self) -> str:
        """The name of the metric that accuracies are measured in; empty where nothing was trained."""
        return next((network.accuracy.metric for network in self.result.models if network.accuracy is not None), "")


def read_scale_run(recorded: RecordedRun, run: Path) -> ScaleRun:
    """Read what a run of `scale` did from its directory.

    Args:
        recorded: The run's result and identity.
        run: The run's directory.

    Raises:
        NetadaptError: The result or a chart is not readable, or a file was changed since the run wrote it.
    """
    result = recorded.result(ScaleResult)
    journal = read_journal(run)
    for network in result.models:
        if network.model is not None:
            journal.is_sealed(run / network.model)  # one that is gone is no reason to fail
    charts = {}
    for file in sorted((run / PLOTS).glob("*.json")):
        try:
            spec = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except UNREADABLE as error:
            raise unreadable_run(str(file), recorded.command, error) from error
        if journal.is_sealed(file):
            charts[file.stem] = spec
    points = tuple(
        Point("result", 0, network.method, network.accuracy.mean, _resources(network))
        for network in result.models
        if network.accuracy is not None
    )
    return ScaleRun(recorded.name, result, charts, points, recorded.identity, recorded.about)


def _resources(network: ScaledModel) -> dict[str, float]:
    cost = network.resources
    timed = {} if cost.latency_ms is None else {"latency": cost.latency_ms}
    return {name: float(value) for name, value in amounts(cost).items()} | timed
