from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from models import plain, residual, unprunable
from netadapt_onnx.api.profile import profile
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers.breakdown import by_group, by_layer
from netadapt_onnx.profilers.execution import CPU, Execution, fingerprint
from netadapt_onnx.profilers.random_widths import Draw, RandomWidthModel, random_widths
from netadapt_onnx.profilers.statistics import Timing, kendall
from netadapt_onnx.profilers.table import build as building
from netadapt_onnx.profilers.table.build import TablePlan, build
from netadapt_onnx.profilers.table.file import Cell, EndToEndTime, Record, read
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.profilers.validate import validate
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.trace import Trace, trace


def simulated_ms(shapes: Mapping[str, tuple[int, ...]], proto: onnx.ModelProto) -> dict[str, float]:
    """A device with blocks of 8 channels: microseconds per layer, from the widths alone."""
    weights = {n.name: shapes[n.input[1]] for n in proto.graph.node if n.op_type in {"Conv", "Gemm"}}
    return {name: 2.0 + 0.5 * -(-w[0] // 8) * -(-w[1] // 8) for name, w in weights.items()}


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the clock: cells and whole times follow from the widths, so that builds can be compared."""

    def measure_batch(setup: Any, models: Mapping[int, RandomWidthModel], *_: Any) -> tuple[list[Record], float]:
        records: list[Record] = []
        uncut = setup.reference
        uncut_us = sum(simulated_ms(uncut.shapes, uncut.proto).values())
        for number, model in models.items():
            times = simulated_ms(model.shapes, uncut.proto)
            for name, us in times.items():
                shapes = [list(model.shapes[t]) for t in setup.layers.tensors(name)]
                records.append(Cell(number, [name], shapes, us))
            ms = [sum(times.values()) / 1000] * 2
            records.append(EndToEndTime(number, ms, [uncut_us / 1000] * 2, uncut_us, 10, 0.5))
        return records, 0.0

    def measure(*_: Any, **__: Any) -> tuple[Timing, ...]:
        return (Timing(3.0, (2.9, 3.1), 9),)

    monkeypatch.setattr(building, "_measure_batch", measure_batch)
    monkeypatch.setattr(building, "measure", measure)


@pytest.mark.usefixtures("simulated")
class TestSimulated:
    def test_unseen_widths_are_predicted(
        self, traced: Trace, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        table = build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=48))
        uncut_us = sum(simulated_ms(reference.shapes, reference.proto).values())
        assert table.predict(reference.shapes) == pytest.approx(3.0, rel=0.01)
        errors = []
        for i in range(20):
            version = draw(np.random.default_rng([99, i]))
            expected = sum(simulated_ms(version.shapes, reference.proto).values()) / uncut_us
            errors.append(table.predict_ratio(version.shapes) / expected - 1)
        assert np.abs(errors).mean() < 0.01

    def test_what_was_measured_while_the_uncut_model_was_slow_counts_less(
        self, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        """Beside an uncut model that takes 10% longer the others take 15% longer, in three of six batches."""
        table = build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=48))

        def slower(time: EndToEndTime) -> EndToEndTime:
            if time.model // 8 % 2 == 0:
                return time
            ms, uncut_ms = [1.15 * t for t in time.ms], [1.1 * t for t in time.reference_ms]
            return msgspec.structs.replace(time, ms=ms, reference_ms=uncut_ms)

        slow_table = replace(table, end_to_end=tuple(map(slower, table.end_to_end)))
        errors = [
            slow_table.predict_ratio(version.shapes) / table.predict_ratio(version.shapes) - 1
            for version in (draw(np.random.default_rng([99, i])) for i in range(20))
        ]
        assert np.abs(errors).mean() < 0.005

    def test_batches_share_the_time_alike_whatever_goes_by_beside_measuring(
        self, reference: RandomWidthModel, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        simulated, shares = building._measure_batch, []

        def late(
            setup: Any, models: Mapping[int, RandomWidthModel], share_s: float, started: float
        ) -> tuple[list[Record], float]:
            overhead_s = 1.5
            shares.append(share_s)
            records, _ = simulated(setup, models, share_s, started)
            seconds = (share_s + overhead_s) / len(models)
            timed = [msgspec.structs.replace(r, seconds=seconds) if isinstance(r, EndToEndTime) else r for r in records]
            return timed, overhead_s

        monkeypatch.setattr(building, "_measure_batch", late)
        build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=64, time_cap_s=80.0))
        assert shares[0] == pytest.approx(10.0)  # nothing is known yet of what goes by
        assert shares[1:] == pytest.approx([(80.0 - 11.5) / 7 - 1.5] * 7)

    def test_candidates_need_no_model(
        self, traced: Trace, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        """The search predicts from shapes alone, and fewer channels never cost more in whole steps."""
        table = build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=32))
        [group, *_] = traced.prunable
        predicted = [
            table.predict(traced.resized_shapes(select(traced, {group.name: n}, "first"))) for n in (8, 16, 24, 32)
        ]
        assert predicted == sorted(predicted)
        assert predicted[0] < 0.9 * predicted[-1]

    def test_a_killed_build_goes_on_to_the_same_table(
        self, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        complete = build(tmp_path / "whole.jsonl", reference, draw, TablePlan(models=20))

        def dying(rng: np.random.Generator) -> RandomWidthModel:
            nonlocal remaining
            remaining -= 1
            if remaining < 0:
                raise KeyboardInterrupt
            return draw(rng)

        for remaining in (0, 8, 17):
            path = tmp_path / f"killed{remaining}.jsonl"
            with pytest.raises(KeyboardInterrupt):
                build(path, reference, dying, TablePlan(models=20))
            with path.open("ab") as file:  # killed while writing
                file.write(b'{"record":"cell","model":11,"layers":["conv1"],"shapes":[],"us":1.0}\n{"record":"ce')
            resumed = build(path, reference, draw, TablePlan(models=20))
            assert resumed.cells == complete.cells
            assert [w.model for w in resumed.end_to_end] == list(range(20))

    @pytest.mark.parametrize("size", [0, 40])
    def test_a_table_torn_in_its_first_line_is_begun_again(
        self, size: int, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        complete = build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=8))
        (tmp_path / "torn.jsonl").write_bytes(complete.path.read_bytes()[:size])
        assert build(tmp_path / "torn.jsonl", reference, draw, TablePlan(models=8)).cells == complete.cells

    def test_measuring_anew_replaces_the_table_once_it_is_done(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "m.onnx").write_bytes(residual(32, size=8).SerializeToString())
        path = tmp_path / "t.jsonl"
        old = profile(tmp_path / "m.onnx", path, models=8).table.read_bytes()

        def fail(*_: object) -> list[Record]:
            raise NetadaptError("cannot measure")

        with monkeypatch.context() as patch:
            patch.setattr(building, "_measure_batch", fail)
            for ep, message in (("cpu", "cannot measure"), ("bogus", "no execution provider")):
                with pytest.raises(NetadaptError, match=message):
                    profile(tmp_path / "m.onnx", path, models=16, ep=ep, overwrite=True)
                assert path.read_bytes() == old
        profile(tmp_path / "m.onnx", path, models=16, overwrite=True)
        assert b'"models":16' in path.read_bytes()
        assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "t.jsonl"}

    def test_a_finished_table_is_not_measured_again(
        self, reference: RandomWidthModel, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "t.jsonl"
        build(path, reference, draw, TablePlan(models=8))
        before = path.read_bytes()
        monkeypatch.setattr(building, "_measure_batch", None)
        build(path, reference, draw, TablePlan(models=8))
        assert path.read_bytes() == before

    def test_the_time_cap_leaves_a_smaller_table(self, reference: RandomWidthModel, draw: Draw, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        table = build(
            path, reference, draw, TablePlan(models=32, time_cap_s=7.0)
        )  # a version takes 0.5 s, a batch has 8
        assert len(table.end_to_end) == 16
        assert table.reference.stopped == "time cap of 7 s"

    def test_a_model_too_slow_for_the_cap_is_refused_and_gone_on_with(
        self, reference: RandomWidthModel, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "t.jsonl"
        monkeypatch.setattr(building, "SHORTEST_S", 0.0)
        message = "too busy or too slow: 8 of 32 versions measured in 4 s, and a table needs 16"
        with pytest.raises(NetadaptError, match=message) as caught:
            build(path, reference, draw, TablePlan(models=32, time_cap_s=1.0))
        assert caught.value.code == "too-slow"
        assert "--max-time 24s" in str(caught.value.hint)
        assert (
            len(build(path, reference, draw, TablePlan(models=32, time_cap_s=1.0)).end_to_end) == 16
        )  # the same again goes on

    def test_a_cap_that_is_too_short_is_lengthened_for_a_small_table(
        self, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        table = build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=32, time_cap_s=3.0))
        assert len(table.end_to_end) == 16
        assert table.reference.stopped == "time cap of 3 s"

    def test_errors_are_predicted_with_the_latency(
        self, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        table = build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=48))
        uncut_us = sum(simulated_ms(reference.shapes, reference.proto).values())
        within = []
        for i in range(30):
            version = draw(np.random.default_rng([98, i]))
            ms, error = table.predict_with_error(version.shapes)
            assert ms == table.predict(version.shapes)
            assert 0 <= error < 0.2
            expected = 3.0 * sum(simulated_ms(version.shapes, reference.proto).values()) / uncut_us
            within.append(abs(ms / expected - 1) <= error + 0.005)
        assert np.mean(within) > 0.8

    def test_time_is_broken_down_by_layer_and_by_group(
        self, traced: Trace, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        table = build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=32))
        owner = {layer: group.name for group in traced.groups for layer in group.layers}
        for parts in (by_layer(table, reference.shapes, owner), by_group(table, reference.shapes, owner)):
            assert sum(p.latency_ms for p in parts) == pytest.approx(table.predict(reference.shapes))
            assert [p.share for p in parts] == sorted((p.share for p in parts), reverse=True)
            assert parts[-1].cumulated == pytest.approx(1.0)
        true = simulated_ms(reference.shapes, reference.proto)
        slowest = by_layer(table, reference.shapes, owner)[0]
        assert true[slowest.name] == max(true.values())
        assert slowest.group == owner[slowest.name]

    def test_progress_counts_versions(self, reference: RandomWidthModel, draw: Draw, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=16), progress=lambda i, n, _: seen.append((i, n)))
        assert seen == [(0, 16), (8, 16), (16, 16)]

    def test_another_plan_on_the_same_file_is_refused(
        self, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.jsonl"
        build(path, reference, draw, TablePlan(models=8))
        with pytest.raises(NetadaptError, match="threads: 1 there, 2 here"):
            build(path, reference, draw, TablePlan(models=8), execution=Execution(threads=2))
        with pytest.raises(NetadaptError, match="seed: 0 there, 1 here"):
            build(path, reference, draw, TablePlan(models=8, seed=1))

    def test_another_model_is_refused(self, reference: RandomWidthModel, draw: Draw, tmp_path: Path) -> None:
        build(tmp_path / "t.jsonl", reference, draw, TablePlan(models=8))
        with pytest.raises(NetadaptError, match="another model"):
            Table.load(tmp_path / "t.jsonl", fold(plain()).proto)

    def test_another_device_is_refused_by_what_differs(
        self, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.jsonl"
        build(path, reference, draw, TablePlan(models=8))
        assert Table.load(path, reference.proto, device=fingerprint(CPU)).device == fingerprint(CPU)
        with pytest.raises(NetadaptError, match=re.escape("cpu: ") + ".* there, Cortex-A72 here"):
            Table.load(path, reference.proto, device=fingerprint(CPU) | {"cpu": "Cortex-A72"})

    def test_a_corrupt_line_is_named_by_number(self, reference: RandomWidthModel, draw: Draw, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        build(path, reference, draw, TablePlan(models=8))
        lines = path.read_text().splitlines()
        lines[4] = lines[4].replace('"us":', '"us":"')
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(NetadaptError, match="line 5"):
            Table.load(path, reference.proto)

    def test_a_cut_off_last_line_is_left_out_and_said(
        self, reference: RandomWidthModel, draw: Draw, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.jsonl"
        build(path, reference, draw, TablePlan(models=8))
        assert not Table.load(path, reference.proto).truncated
        path.write_bytes(path.read_bytes() + b'{"record":"refe')
        assert Table.load(path, reference.proto).truncated

    def test_a_table_without_cells_is_refused(self, reference: RandomWidthModel, draw: Draw, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        build(path, reference, draw, TablePlan(models=8))
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
        with pytest.raises(NetadaptError, match="no measured cell"):
            Table.load(path, reference.proto)

    def test_an_unfinished_table_is_refused(self, reference: RandomWidthModel, draw: Draw, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        build(path, reference, draw, TablePlan(models=8))
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
        with pytest.raises(NetadaptError, match="not complete"):
            Table.load(path, reference.proto)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(NetadaptError, match="no such file"):
        Table.load(path, plain())
    path.write_text('{"record":"reference","median_ms":1.0,"ci95":[1,1],"sessions":1,"stopped":"","seconds":1}\n')
    with pytest.raises(NetadaptError, match="not a latency table"):
        Table.load(path, plain())
    path.write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(NetadaptError, match="not a latency table"):
        Table.load(path, plain())


@pytest.mark.parametrize(
    "content", [b"mine\n", b"no end of line", b"{", b'{"record":"cell"', b"\x89PNG\r\n\x1a\n\xff", b"\xff\xfe\0", b"\n"]
)
def test_a_file_that_is_no_table_is_never_overwritten(
    content: bytes, reference: RandomWidthModel, draw: Draw, tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(NetadaptError, match="not a latency table"):
        build(path, reference, draw, TablePlan(models=8))
    assert path.read_bytes() == content


def test_drawn_versions_vary_in_every_group_and_repeat_by_seed(traced: Trace, draw: Draw) -> None:
    versions = [draw(np.random.default_rng([0, i])) for i in range(12)]
    again = draw(np.random.default_rng([0, 3]))
    assert again.shapes == versions[3].shapes
    costs = [cost(v.proto, v.shapes).macs for v in versions]
    assert max(costs) > 3 * min(costs)
    for group in traced.prunable:
        node = next(n for n in traced.folded.proto.graph.node if n.name == group.name)
        assert len({v.shapes[node.output[0]][1] for v in versions}) > 2
    for version in versions[:3]:
        assert fold(version.proto).shapes == version.shapes


def test_a_model_without_prunable_group_is_refused() -> None:
    with pytest.raises(NetadaptError, match="no prunable group"):
        random_widths(trace(fold(unprunable())))


def test_a_table_is_made_of_what_onnxruntime_runs(reference: RandomWidthModel, draw: Draw, tmp_path: Path) -> None:
    """The real thing, briefly: onnxruntime profiles, cells, fit, and versions that were held out; how well they are
    ranked, a simulated device tells (`test_table_pace.py`)."""
    path = tmp_path / "t.jsonl"
    table = build(path, reference, draw, TablePlan(models=24, time_cap_s=20.0))
    assert {tuple(cell.layers) for cell in table.cells} >= {("conv1", "bn1", "relu1")}
    assert sum(isinstance(r, EndToEndTime) for r in read(path)) == len(table.end_to_end)
    assert table.units["add1"].name == "conv3"
    assert all(us >= 0 for us in table.predict_units(reference.shapes).values())
    result = validate(table, reference, draw, 8, seconds_each=0.1)
    assert result.n == 8
    assert result.mape <= result.p95 <= result.max


@pytest.mark.parametrize("seed", range(3))
def test_kendall_is_scipys(seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 12, 30).astype(float)  # with ties
    b = a + rng.normal(0, 4, 30).round()
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
    assert kendall(a, a) == pytest.approx(1.0)
