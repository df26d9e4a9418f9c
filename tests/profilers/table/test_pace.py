"""A table's build never dies of being slow: disturbed devices, slow links and short caps, on a simulated clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import residual
from netadapt_onnx.api.inspect import Cautioned, inspect
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers.random_widths import Draw, Kind, RandomWidthModel, random_widths
from netadapt_onnx.profilers.table.build import LEAST_MODELS, LENGTHENED, SHORTEST_S, TablePlan, build
from netadapt_onnx.profilers.table.pace import Pace
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.validate import unseen, validate
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.trace import trace
from simulated_device import INTERFERENCE, SimulatedDevice, Slowness, quiet, true_ratio

TRACED = trace(fold(residual(32, size=8)))
REFERENCE = RandomWidthModel(TRACED.folded.proto, TRACED.folded.shapes)
DRAW: Draw = random_widths(TRACED)


def errors(table: Table) -> list[float]:
    versions = [unseen(DRAW, i, seed=99) for i in range(20)]
    return [abs(table.predict_ratio(v.shapes) / true_ratio(v.proto, REFERENCE.proto) - 1) for v in versions]


@pytest.mark.parametrize("slowness", [quiet, *INTERFERENCE])
def test_a_disturbed_device_still_gives_a_table(
    slowness: Slowness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SimulatedDevice(slowness, speed=3e-4).clock(monkeypatch)
    table = build(tmp_path / "t.jsonl", REFERENCE, DRAW, TablePlan(models=48), device=device)
    assert len(table.end_to_end) >= LEAST_MODELS
    assert device.now < 1.2 * 100
    # Beside each other all suffer alike, and sessions that suffer more are few: but what one in three does, stays.
    assert np.mean(errors(table)) < (0.03 if slowness is not INTERFERENCE[2] else 0.3)
    assert table.disturbance.busy == (slowness is not quiet)


@pytest.mark.parametrize("cap_s", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("overhead_s", [0.0, 60.0])
@pytest.mark.parametrize("speed", [1e-6, 3e-3])
def test_whatever_the_cap_the_link_and_the_model_a_build_ends_with_a_table_or_says_what_it_lacks(
    cap_s: float, overhead_s: float, speed: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No job asks for less than nothing, and a build that was too slow goes on when it is run again."""
    device = SimulatedDevice(speed=speed, overhead_s=overhead_s).clock(monkeypatch)
    path = tmp_path / "t.jsonl"
    runs = []
    for _ in range(4):
        started, before = device.now, len(device.jobs)
        try:
            table = build(path, REFERENCE, DRAW, TablePlan(models=48, time_cap_s=cap_s), device=device)
        except NetadaptError as error:
            assert error.code == "too-slow"
            assert "too busy or too slow: " in str(error)
            assert f" of 48 versions measured in {sum_of(path):.0f} s, and a table needs 16" in error.message
            assert "run the same again" in error.hint
        else:
            assert len(table.end_to_end) >= LEAST_MODELS
            break
        finally:
            runs.append(device.now - started)
            batch_s = max(runs[-1] / (len(device.jobs) - before), 1e-9)
        assert runs[-1] <= max(LENGTHENED * cap_s, SHORTEST_S) + batch_s * 1.001
    else:
        pytest.fail("it does not go on")
    assert all(job.seconds is not None and job.seconds >= 0 for job in device.jobs)


def sum_of(path: Path) -> float:
    from netadapt_onnx.profilers.table.file import EndToEndTime, read

    return sum(r.seconds for r in read(path) if isinstance(r, EndToEndTime))


def test_where_copying_takes_the_time_fewer_versions_are_measured_for_longer() -> None:
    """Eight batches share 100 s; with 30 s of copying each there is time for three, which have theirs."""
    quick = Pace(100.0, batches=8, remaining=8, needed=2, used_s=0.0, overhead_s=0.0)
    assert quick.share_s == pytest.approx(12.5)
    slow = Pace(100.0, batches=8, remaining=7, needed=1, used_s=33.0, overhead_s=30.0)
    assert slow.fitting == 2
    assert slow.share_s == pytest.approx(67 / 2 - 30)
    late = Pace(100.0, batches=8, remaining=7, needed=1, used_s=150.0, overhead_s=60.0)
    assert late.share_s == late.least_s == pytest.approx(100 / 8 / 4)
    assert not late.over
    assert Pace(100.0, batches=8, remaining=5, needed=0, used_s=80.0, overhead_s=30.0).over


def test_a_busy_device_is_said_once_by_its_name_and_kept_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    device = SimulatedDevice(INTERFERENCE[2], speed=2e-5, others=1.8).clock(monkeypatch)
    table = build(tmp_path / "t.jsonl", REFERENCE, DRAW, TablePlan(models=24), device=device, log=lines.append)
    [line] = lines
    assert line.startswith("this machine is busy: times vary by ")
    assert line.endswith("%, other processes use 1.8 processors; results need a quiet machine or --device")
    again = Table.load(tmp_path / "t.jsonl", REFERENCE.proto)
    assert again.disturbance == table.disturbance
    assert again.disturbance.others == pytest.approx(1.8)
    assert "was built on a busy machine: times varied by " in again.notes[0]
    (tmp_path / "m.onnx").write_bytes(residual(32, size=8).SerializeToString())
    inspected = inspect(tmp_path / "m.onnx", table=tmp_path / "t.jsonl")
    assert isinstance(inspected, Cautioned)
    assert inspected.notes == again.notes

    lines.clear()
    device = SimulatedDevice(speed=2e-5, others=0.1).clock(monkeypatch)
    quiet_table = build(tmp_path / "calm.jsonl", REFERENCE, DRAW, TablePlan(models=24), device=device, log=lines.append)
    assert not lines
    assert quiet_table.notes == ()


def test_unseen_versions_of_all_kinds_are_ranked_and_covered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = SimulatedDevice(speed=2e-5).clock(monkeypatch)
    table = build(tmp_path / "t.jsonl", REFERENCE, DRAW, TablePlan(models=48), device=device)
    result = validate(table, REFERENCE, DRAW, 25, device=device)
    assert result.n == 25
    assert result.pearson > 0.99
    assert result.kendall > 0.85
    assert result.mape <= result.p95 <= result.max < 0.05
    assert result.covered >= 0.9
    assert {kind: errors.n for kind, errors in result.kinds.items()} == dict.fromkeys(
        ("search", "uniform", "narrow", "odd", "single"), 5
    )


@pytest.mark.parametrize("slowness", INTERFERENCE)
def test_a_validation_on_a_disturbed_device_ends(
    slowness: Slowness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = build(tmp_path / "t.jsonl", REFERENCE, DRAW, TablePlan(models=16), device=SimulatedDevice(speed=2e-5))
    device = SimulatedDevice(slowness, speed=2e-5, overhead_s=60.0).clock(monkeypatch)
    result = validate(table, REFERENCE, DRAW, 8, seconds_each=0.0, device=device)
    assert len(result.points) == 8
    assert all(job.seconds is not None and job.seconds >= 0 for job in device.jobs)


def test_the_predicted_error_grows_where_a_table_knows_little(tmp_path: Path) -> None:
    """A table of such widths as a search meets them does not know the floor, and says so."""

    def searched(rng: np.random.Generator, _: Kind | None = None) -> RandomWidthModel:
        return DRAW(rng, "search")

    mixed = build(tmp_path / "all.jsonl", REFERENCE, DRAW, TablePlan(models=48), device=SimulatedDevice(speed=2e-5))
    table = build(tmp_path / "t.jsonl", REFERENCE, searched, TablePlan(models=48), device=SimulatedDevice(speed=2e-5))
    floors = {group.name: group.floor for group in TRACED.prunable}
    floor = TRACED.resized_shapes(select(TRACED, floors, "first"))
    usual = np.median(
        [table.predict_with_error(DRAW(np.random.default_rng([7, i]), "search").shapes)[1] for i in range(9)]
    )
    assert table.predict_with_error(floor)[1] > 3 * usual
    assert mixed.predict_with_error(floor)[1] < table.predict_with_error(floor)[1]
