"""A search that ends early, and goes on where it ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

from netadapt_onnx.common.amounts import seconds_of
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.executors.protocol import OnOutcome, Outcome, Request, Shared, Work, WorkerInfo, perform
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.search.run_directory import run as running
from search_cases import KNOWN_WIDTHS, adapt_hello_world, hello_world, looked_up, widths_of


def widths(result: AdaptResult) -> tuple[int, ...]:
    return tuple(after for _, after in result.groups.values())


def test_a_search_never_goes_below_the_accuracy_floor(tmp_path: Path) -> None:
    """Accuracies on the way: 0.95, 0.80, 0.85, 0.90."""
    hello_world(tmp_path)
    result = adapt_hello_world(tmp_path, min_accuracy=0.81)
    assert (result.stopped, result.iterations, result.met) == ("accuracy-floor", 0, False)
    assert widths(result) == (16, 32, 64)
    assert any("below --min-accuracy" in note for note in result.notes)
    assert adapt_hello_world(tmp_path, min_accuracy=0.81, resume=True) == result


def test_without_a_floor_a_callers_measure_may_be_negative(tmp_path: Path) -> None:
    hello_world(tmp_path)
    result = adapt_hello_world(tmp_path, evaluate=lambda proto: looked_up(proto) - 1000)
    assert (result.stopped, widths(result)) == ("max-iterations", KNOWN_WIDTHS[-1])


def test_a_search_that_runs_out_of_time_leaves_its_best_and_goes_on_later(tmp_path: Path) -> None:
    hello_world(tmp_path)
    first = adapt_hello_world(tmp_path, max_time=1e-6)
    assert (first.stopped, first.iterations) == ("max-time", 1)
    assert widths(first) == KNOWN_WIDTHS[0] == widths_of(onnx.load(first.model))
    last = adapt_hello_world(tmp_path, max_time="1h", resume=True)
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
    result = adapt_hello_world(tmp_path, executor=clock, max_time=max_time, log=lines.append)
    assert clock.now <= max_time + 60
    assert result.seconds == clock.now
    assert widths(result) == (KNOWN_WIDTHS[result.iterations - 1] if result.iterations else (16, 32, 64))
    if max_time < 500:
        assert result.stopped == "max-time"
        assert result.iterations == (max_time + 60 - 1e-6) // 180 or result.iterations == max_time // 180
        (over,) = [note for note in result.notes if "--max-time is used up" in note]
        assert lines[-1] == over and "--resume" in over
        if clock.now % 180:
            dropped = f"iteration {result.iterations + 1} is dropped, {clock.now % 180 / 60:.0f} of its 3 proposals"
            assert dropped in over
    before = clock.now
    last = adapt_hello_world(tmp_path, executor=clock, resume=True)
    assert (last.stopped, widths(last)) == ("max-iterations", KNOWN_WIDTHS[2])
    assert clock.now == 540 and before <= 540  # what was tried before is not tried again


def test_however_short_the_time_every_resume_gets_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hello_world(tmp_path)
    clock = Slowly(60.0)
    monkeypatch.setattr(running, "time", clock)
    for done in range(1, 10):
        last = adapt_hello_world(tmp_path, executor=clock, max_time=1, resume=done > 1)
        assert clock.now == 60 * done
        assert last.iterations == done // 3
    last = adapt_hello_world(tmp_path, executor=clock, max_time=1, resume=True)
    assert (last.stopped, widths(last), clock.now) == ("max-iterations", KNOWN_WIDTHS[2], 540)


def test_durations_have_units() -> None:
    assert [seconds_of(text) for text in ("90s", "30m", "1.5h", "7", 12)] == [90, 1800, 5400, 7, 12]
    with pytest.raises(NetadaptError, match="not a duration"):
        seconds_of("soon")
