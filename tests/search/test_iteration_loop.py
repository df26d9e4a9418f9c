"""A search that ends early, and models brought back from the middle of one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import netadapt_onnx
from netadapt_onnx.cli import run as command
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.executors.protocol import OnOutcome, Outcome, Request, Shared, Work, WorkerInfo, perform
from netadapt_onnx.search.options import seconds_of
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.search.run_directory import run as running
from search_cases import KNOWN_WIDTHS, hello_world, looked_up, widths_of


def adapted(folder: Path, **more: object) -> AdaptResult:
    """The known answer's search: params after 3 iterations, the first filters kept."""
    arguments: dict[str, object] = {"max_iterations": 3} | more
    return netadapt_onnx.adapt(
        folder / "hello_world.onnx",
        None,
        "params=0.5x",
        folder / "run",
        criterion="first",
        decay=1.0,
        step=1,
        **({"evaluate": lambda proto: looked_up(proto) / 100} | arguments),  # type: ignore[arg-type]
    )


def widths(result: AdaptResult) -> tuple[int, ...]:
    return tuple(after for _, after in result.groups.values())


def test_any_iteration_can_be_restored_and_its_plan_replayed(tmp_path: Path) -> None:
    original = hello_world(tmp_path)
    adapted(tmp_path)
    for iteration, expected in enumerate(KNOWN_WIDTHS, 1):
        restored_model = netadapt_onnx.restore(tmp_path / "run", iteration, tmp_path / f"{iteration}.onnx")
        proto = onnx.load(restored_model.model)
        assert widths_of(proto) == expected == tuple(restored_model.widths.values())
        assert restored_model.accuracy == looked_up(proto) / 100
        netadapt_onnx.prune(original, tmp_path / f"again{iteration}.onnx", plan=restored_model.plan)
        again = onnx.load(tmp_path / f"again{iteration}.onnx")
        for a, b in zip(proto.graph.initializer, again.graph.initializer, strict=True):
            np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


def test_what_cannot_be_restored_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hello_world(tmp_path)
    adapted(tmp_path, save_interval=2)
    run = tmp_path / "run"
    assert command(["restore", str(run), "--iteration", "2", "-o", str(tmp_path / "2.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iteration"] == 2
    for folder, iteration, message in (
        (run, 1, "was not kept.*kept: 2, 3"),
        (run, 9, "no iteration 9; it has 1 to 3"),
        (tmp_path, 1, "is not a run"),
    ):
        with pytest.raises(NetadaptError, match=message):
            netadapt_onnx.restore(folder, iteration, tmp_path / "no.onnx")
    with pytest.raises(NetadaptError, match="exists"):
        netadapt_onnx.restore(run, 2, tmp_path / "2.onnx")


def test_a_search_never_goes_below_the_accuracy_floor(tmp_path: Path) -> None:
    """Accuracies on the way: 0.95, 0.80, 0.85, 0.90."""
    hello_world(tmp_path)
    result = adapted(tmp_path, min_accuracy=0.81)
    assert (result.stopped, result.iterations, result.met) == ("accuracy-floor", 0, False)
    assert widths(result) == (16, 32, 64)
    assert any("below the floor" in note for note in result.notes)
    assert adapted(tmp_path, min_accuracy=0.81, resume=True) == result


def test_without_a_floor_a_callers_measure_may_be_negative(tmp_path: Path) -> None:
    hello_world(tmp_path)
    result = adapted(tmp_path, evaluate=lambda proto: looked_up(proto) - 1000)
    assert (result.stopped, widths(result)) == ("max-iterations", KNOWN_WIDTHS[-1])


def test_a_search_that_runs_out_of_time_leaves_its_best_and_goes_on_later(tmp_path: Path) -> None:
    hello_world(tmp_path)
    first = adapted(tmp_path, max_time=1e-6)
    assert (first.stopped, first.iterations) == ("max-time", 1)
    assert widths(first) == KNOWN_WIDTHS[0] == widths_of(onnx.load(first.model))
    last = adapted(tmp_path, max_time="1h", resume=True)
    assert (last.stopped, last.iterations) == ("max-iterations", 3)
    assert widths(last) == KNOWN_WIDTHS[2] == widths_of(onnx.load(last.model))


class Slowly:
    """Proposals one after the other, each of which takes `seconds` of a clock that nothing else moves."""

    apart = False

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def run(
        self,
        work: Work,
        shared: Sequence[Shared],
        requests: Sequence[Request],
        on_outcome: OnOutcome,
        *,
        threaded: bool,
    ) -> list[Outcome]:
        outcomes = []
        for number, request in enumerate(requests):
            outcomes.append(perform(work, WorkerInfo(), [value.value for value in shared], request))
            self.now += self.seconds
            on_outcome(number, outcomes[-1])
        return outcomes

    def __enter__(self) -> Slowly:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("max_time", [1, 59, 100, 150, 179, 200, 340, 361, 500, 1000])
def test_a_run_keeps_within_its_time_by_one_proposal_and_resumes_to_what_it_would_have_come_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_time: float
) -> None:
    """Three iterations of three proposals, a minute each."""
    hello_world(tmp_path)
    clock = Slowly(60.0)
    monkeypatch.setattr(running, "time", clock)
    lines: list[str] = []
    result = adapted(tmp_path, executor=clock, max_time=max_time, log=lines.append)
    assert clock.now <= max_time + 60
    assert result.seconds == clock.now
    assert widths(result) == (KNOWN_WIDTHS[result.iterations - 1] if result.iterations else (16, 32, 64))
    if max_time < 500:
        assert result.stopped == "max-time"
        assert result.iterations == (max_time + 60 - 1e-6) // 180 or result.iterations == max_time // 180
        (over,) = [note for note in result.notes if "the time is over" in note]
        assert lines[-1] == over and "--resume" in over
        if clock.now % 180:
            dropped = f"iteration {result.iterations + 1} is dropped, {clock.now % 180 / 60:.0f} of its 3 proposals"
            assert dropped in over
    before = clock.now
    last = adapted(tmp_path, executor=clock, resume=True)
    assert (last.stopped, widths(last)) == ("max-iterations", KNOWN_WIDTHS[2])
    assert clock.now == 540 and before <= 540  # what was tried before is not tried again


def test_however_short_the_time_every_resume_gets_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hello_world(tmp_path)
    clock = Slowly(60.0)
    monkeypatch.setattr(running, "time", clock)
    for done in range(1, 10):
        last = adapted(tmp_path, executor=clock, max_time=1, resume=done > 1)
        assert clock.now == 60 * done
        assert last.iterations == done // 3
    last = adapted(tmp_path, executor=clock, max_time=1, resume=True)
    assert (last.stopped, widths(last), clock.now) == ("max-iterations", KNOWN_WIDTHS[2], 540)


def test_durations_have_units() -> None:
    assert [seconds_of(text) for text in ("90s", "30m", "1.5h", "7", 12)] == [90, 1800, 5400, 7, 12]
    with pytest.raises(NetadaptError, match="not a duration"):
        seconds_of("soon")
