"""The models of a run that no other of its models beats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from netadapt_onnx.api.adapt import adapt
from netadapt_onnx.search.run_directory.pareto import Point, front
from search_cases import FAST

pytestmark = pytest.mark.usefixtures("fixed_training_settings")


def test_the_pareto_set_holds_no_model_that_another_beats(task: tuple[Path, Path], tmp_path: Path) -> None:
    adapt(*task, "macs=0.8x,0.4x", tmp_path / "run", **FAST)
    solution = json.loads((tmp_path / "run/pareto.json").read_text())
    assert solution["resources"] == ["macs"]
    assert {m["stage"] for m in solution["models"]} <= {"original", "searched", "trained"}
    assert all((tmp_path / "run" / m["model"]).exists() for m in solution["models"] if m["stage"] != "original")


def test_a_front_drops_what_another_beats_and_repetitions() -> None:
    def point(accuracy: float, macs: float) -> Point:
        return Point("searched", 1, accuracy, {"macs": macs, "size": 1.0}, {}, None)

    points = [point(0.9, 10), point(0.8, 5), point(0.7, 6), point(0.9, 11), point(0.8, 5), point(0.95, 20)]
    assert [(p.accuracy, p.resources["macs"]) for p in front(points, ["macs"])] == [(0.95, 20), (0.9, 10), (0.8, 5)]
