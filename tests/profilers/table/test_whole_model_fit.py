"""Tables of providers that show no times of nodes: fitted to whole versions, and measured, briefly, for real."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import CostModel
from netadapt_onnx.profilers import providers
from netadapt_onnx.profilers.execution import CPU
from netadapt_onnx.profilers.random_widths import Draw, RandomWidthModel
from netadapt_onnx.profilers.table.build import TablePlan, build
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.table.whole_model_fit import fit_whole_model
from netadapt_onnx.profilers.validate import validate
from simulated_device import SimulatedDevice


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU, as if it showed no times of nodes."""
    hidden = dataclasses.replace(CPU.provider, per_node=False)
    monkeypatch.setitem(providers.PROVIDERS, "cpu", hidden)  # type: ignore[arg-type]


def simulated(count: CostModel, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """A device with blocks of 8 channels: a call, and every layer's multiplications as if all blocks were full."""

    def in_blocks(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        axes = (0, 1) if name.endswith("weight") else (1,)
        return tuple(-(-d // 8) * 8 if i in axes else d for i, d in enumerate(shape))

    full = {name: in_blocks(name, shape) for name, shape in shapes.items()}
    return 5e4 + sum(layer.macs for layer in count.layers(full))


def test_whole_times_alone_predict_unseen_versions(reference: RandomWidthModel, draw: Draw) -> None:
    count = CostModel(reference.proto)
    versions = [reference.shapes, *(draw(np.random.default_rng([0, i])).shapes for i in range(1, 120))]
    times = np.array([simulated(count, shapes) for shapes in versions])
    ratios = times / times[0]
    noisy = ratios * np.exp(0.02 * np.random.default_rng(0).standard_normal(len(ratios)))
    noisy[7] *= 3  # something else ran
    for measured, mean in ((ratios, 0.01), (noisy, 0.02)):
        fit = fit_whole_model(reference.proto, versions[:90], measured[:90], 0, 1e-3)
        errors = np.array([fit.predict_ratio(shapes) for shapes in versions[90:]]) / ratios[90:] - 1
        assert np.abs(errors).mean() < mean
        parts = fit.predict_units(reference.shapes)
        assert sum(parts.values()) + fit.constant == pytest.approx(fit.predict_ratio(reference.shapes))
        assert all(part >= 0 for part in parts.values())
        assert parts["conv2"] > parts["relu1"]


def test_the_staircase_is_found(reference: RandomWidthModel, draw: Draw) -> None:
    count = CostModel(reference.proto)
    versions = [reference.shapes, *(draw(np.random.default_rng([0, i])).shapes for i in range(1, 100))]
    times = np.array([simulated(count, shapes) for shapes in versions])
    assert fit_whole_model(reference.proto, versions, times / times[0], 0, 1e-3).staircase.block == 8


def test_few_versions_are_no_table(reference: RandomWidthModel) -> None:
    with pytest.raises(NetadaptError, match="3 measured versions are too few"):
        fit_whole_model(reference.proto, [reference.shapes] * 3, np.ones(3), 0, 1e-3)


@pytest.mark.usefixtures("compiling")
def test_onnxruntime_measures_for_a_table_without_times_of_nodes(
    reference: RandomWidthModel, draw: Draw, tmp_path: Path
) -> None:
    table = build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=16, time_cap_s=5.0))
    assert {cell.us for cell in table.cells} == {None}
    assert all(time.ratio > 0 for time in table.end_to_end)


@pytest.mark.usefixtures("compiling")
def test_a_table_without_times_of_nodes_is_built_read_and_validated(
    reference: RandomWidthModel, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.jsonl"
    device = SimulatedDevice(speed=2e-5, per_node=False).clock(monkeypatch)
    table = build(path, reference, draw, TablePlan(models=64), device=device)
    assert {cell.us for cell in table.cells} == {None}
    again = Table.load(path, reference.proto, device=table.device)
    assert again.predict_ratio(reference.shapes) == table.predict_ratio(reference.shapes)
    assert table.predict_ratio(reference.shapes) == pytest.approx(1.0, abs=0.3)
    smallest = min(
        (draw(np.random.default_rng([9, i])) for i in range(20)), key=lambda v: sum(map(sum, v.shapes.values()))
    )
    assert 0 < table.predict(smallest.shapes) < table.predict(reference.shapes)
    result = validate(table, reference, draw, 10, device=device)
    assert result.pearson > 0.7
    assert result.covered >= 0.8
    assert result.mape <= result.p95 <= result.max
