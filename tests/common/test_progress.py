"""Progress that moves: stages and their steps, time left, and the line on a terminal of any width."""

from __future__ import annotations

import ast
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from rich.console import Console

import netadapt_onnx
from netadapt_onnx.common.progress import (
    Stages,
    clocks,
    counting,
    progress_line,
    reporter,
    shown,
    stage,
    steps,
    watching,
)

PACKAGE = Path(netadapt_onnx.__file__).parent
LONGEST_ITERATION = 1000


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stages(clock: Clock) -> Iterator[Stages]:
    watched = Stages("adapting", clock)
    with watching(watched):
        yield watched


def line(stages: Stages, columns: int) -> str:
    """What a terminal of so many columns shows."""
    console = Console(width=columns, file=io.StringIO(), force_terminal=True, color_system=None)
    with console.capture() as seen:
        console.print(progress_line(stages, console))
    rows = seen.get().splitlines()
    assert len(rows) == 1 and len(rows[0]) <= columns
    return rows[0].rstrip()


def names() -> list[str]:
    """The name of every stage that the package has, numbers as long as they get."""
    stage_names = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            function = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
            named = function.lstrip("_") in ("stage", "steps", "counting", "progress", "reporter", "say")
            for text in (ast.unparse(one) for one in node.args) if named else ():
                if text[:1] in "'\"" or text[:2] in ("f'", 'f"'):
                    shown = re.sub(r"\{.*?\}", str(LONGEST_ITERATION), text.removeprefix("f")[1:-1])
                    stage_names.append(shown.partition(": ")[0])
    return stage_names


def test_a_stage_that_never_ends_has_a_clock_that_moves(stages: Stages, clock: Clock) -> None:
    with stage("looking for a learning rate"):
        seen = []
        for _ in range(3):
            clock.now += 61
            seen.append(line(stages, 80))
    assert [re.findall(r"\d+:\d\d", text) for text in seen] == [["1:01"], ["2:02"], ["3:03"]]
    assert all("looking for a learning rate" in text for text in seen)


def test_a_stage_after_a_full_one_starts_its_own_clock_and_bar(stages: Stages, clock: Clock) -> None:
    report = reporter()
    for done in range(5):
        report(done, 4, "iteration 1, proposals")
        clock.now += 10
    assert "iteration 1" not in line(stages, 80)  # a full one is over
    report(0, 4, "iteration 2, proposals")
    before = line(stages, 80)
    clock.now += 5
    report(2, 4, "iteration 2, proposals")
    assert "0:00" in before and "0/4" in before
    after = line(stages, 80)
    assert "0:05, 0:05 left" in after and "2/4" in after and "━" in after


@pytest.mark.seconds
@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_clock_and_time_left_stay_whatever_the_words(stages: Stages, clock: Clock, columns: int) -> None:
    for name in set(names()):
        with stage(name, 100) as step:
            clock.now += 3700
            step(50, "so far latency 0.82x at top1 0.913, about 37 min of searching left")
            text = line(stages, columns)
        assert "1:01:40, 1:01:40 left" in text
        assert name.split()[0][:8] in text
        if columns >= 80:
            assert name in text
            assert "━" in text


@pytest.mark.seconds
def test_every_kind_of_stage_is_checked() -> None:
    assert {"evaluating", "looking for a learning rate", "1000, 1000", "proving the cut"} <= set(names())
    assert len(set(names())) > 25


def test_time_left_follows_the_pace_of_the_steps_and_counts_down_between_them(stages: Stages, clock: Clock) -> None:
    with stage("judging", 10) as step:
        assert stages.current.left_s is None  # nothing tells
        clock.now += 20
        step(1)
        assert stages.current.left_s == 9 * 20
        clock.now += 15
        assert stages.current.left_s == 9 * 20 - 15
        clock.now += 10_000  # a step that hangs: the others may, too
        assert (stages.current.left_s or 0) > 8 * 5_000


def test_a_stage_of_a_kind_that_has_been_tells_its_time_at_once(stages: Stages, clock: Clock) -> None:
    for number in (1, 2):
        with stage(f"iteration {number}, proposals", 4) as step:
            assert stages.current.left_s == (None if number == 1 else 40)
            clock.now += 40
            step(4)


def test_what_was_done_before_a_resume_says_nothing_of_the_pace(stages: Stages, clock: Clock) -> None:
    reporter()(48, 64, "measuring random versions")
    clock.now += 8
    reporter()(56, 64, "measuring random versions")
    assert stages.current.left_s == 8


def test_a_bound_tells_the_time_left_of_what_cannot_be_counted(stages: Stages, clock: Clock) -> None:
    with stage("measuring beside the original"), steps("measuring", bound_s=20):
        assert stages.current.name == "measuring beside the original"
        clock.now += 5
        assert stages.current.left_s == 15
        with stage("within"), steps("parts", 1):
            assert (stages.current.name, stages.current.left_s) == ("within", 15)
        clock.now += 100
        assert stages.current.left_s == 0
    assert stages.current.name == "adapting" and stages.current.left_s is None


def test_steps_count_for_the_stage_that_they_are_part_of(stages: Stages, clock: Clock) -> None:
    with stage("evaluating the original"):
        clock.now += 60  # reading, say
        for _ in counting("evaluating", range(4)):
            assert (stages.current.name, stages.current.total) == ("evaluating the original", 4)
            clock.now += 1
        assert stages.current.total == 0
        assert stages.current.elapsed_s == 64
    for _ in counting("evaluating", range(2)):
        assert (stages.current.name, stages.current.total) == ("evaluating", 2)


def test_a_callers_count_of_a_stage_that_counts_itself_is_the_same_stage(stages: Stages, clock: Clock) -> None:
    with stage("final training"), steps("training", 4) as step:
        for done in range(1, 5):
            clock.now += 1
            step(done)
            reporter()(done, 4, "final training: loss 0.1")
            assert (stages.current.done, stages.current.elapsed_s) == (done, done)
    assert stages.current.name == "adapting"


def test_a_stage_that_is_left_by_an_error_or_half_read_is_over(stages: Stages) -> None:
    with pytest.raises(ValueError, match="broken"), stage("outer"), stage("inner"):
        raise ValueError("broken")
    assert stages.current.name == "adapting"
    with stage("outer"):
        half = counting("inner", [1, 2, 3])
        next(half)
    assert stages.current.name == "adapting"
    half.close()  # type: ignore[attr-defined]
    assert stages.current.name == "adapting"


def test_jobs_in_threads_say_nothing_and_nobody_watching_is_no_error(stages: Stages) -> None:
    seen = []

    def job() -> None:
        with stage("evaluating", 3) as step:
            step(1)
            seen.append(stages.current.name)

    thread = Thread(target=job)
    thread.start()
    thread.join()
    assert seen == ["adapting"]


def test_the_line_is_drawn_while_the_work_is_inside_one_long_call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    clock = Clock()
    stages = Stages("adapting", clock)
    with shown(stages) as log:
        seen, deadline = "", time.monotonic() + 60
        with stage("evaluating"):
            for now, clocks in ((1.0, "0:01"), (75.0, "1:15"), (3725.0, "1:02:05")):
                clock.now = now
                while clocks not in seen and time.monotonic() < deadline:
                    time.sleep(0.01)
                    seen += capsys.readouterr().err
                assert clocks in seen and "evaluating" in seen
        log("iteration 1: done")
    assert "iteration 1: done" in seen + capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (725, "12:05"), (3725, "1:02:05"), (360000, "100:00:00")])
def test_clocks_read_as_clocks_do(seconds: float, text: str) -> None:
    assert clocks(seconds, None) == text
    assert clocks(seconds, seconds) == f"{text}, {text} left"
