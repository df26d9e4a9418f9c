"""What happened in a run of `scale`, read back from its directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from netadapt_onnx.common import charts
from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.common.resources import amounts
from netadapt_onnx.reporting.recorded import Recorded, unreadable
from netadapt_onnx.reporting.story import Point
from netadapt_onnx.scaling.result import PLOTS, ScaledModel, ScaleResult
from netadapt_onnx.search.run_directory.journal import read_journal


@dataclass(frozen=True)
class ScaledStory:
    """A run of `scale`: its name, outcome, the charts that it left by name, and what it was made with."""

    name: str
    result: ScaleResult
    drawn: Mapping[str, charts.Spec]
    points: tuple[Point, ...]
    identity: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def driven(self) -> list[str]:
        """The resources that targets speak of, in the order in which they were given."""
        return list(dict.fromkeys(made.target.split("=")[0] for made in self.result.models))

    @property
    def metric(self) -> str:
        """What accuracies are; empty where nothing was trained."""
        return next((made.accuracy.metric for made in self.result.models if made.accuracy is not None), "")


def read_scaled(recorded: Recorded, run: Path) -> ScaledStory:
    """What a run of `scale` did. Raises NetadaptError where one of its charts is none."""
    result = recorded.result(ScaleResult)
    journal = read_journal(run)
    for made in result.models:
        if made.model is not None:
            journal.is_sealed(run / made.model)  # one that is gone is no reason to fail
    drawn = {}
    for file in sorted((run / PLOTS).glob("*.json")):
        try:
            spec = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        except UNREADABLE as error:
            raise unreadable(str(file), recorded.command, error) from error
        if journal.is_sealed(file):
            drawn[file.stem] = spec
    points = tuple(
        Point("result", 0, made.method, made.accuracy.mean, _resources(made))
        for made in result.models
        if made.accuracy is not None
    )
    return ScaledStory(recorded.name, result, drawn, points, recorded.identity, recorded.about)


def _resources(made: ScaledModel) -> dict[str, float]:
    cost = made.resources
    timed = {} if cost.latency_ms is None else {"latency": cost.latency_ms}
    return {name: float(value) for name, value in amounts(cost).items()} | timed
