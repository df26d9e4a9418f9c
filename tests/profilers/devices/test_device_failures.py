"""Devices that fail, lie, fall silent or talk without end: one line after a bounded time, and nothing left there."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from models import plain
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import packing
from netadapt_onnx.profilers.agent import environment
from netadapt_onnx.profilers.device import Order, measure_on
from netadapt_onnx.profilers.devices import shell, shell_device
from netadapt_onnx.profilers.devices.local import LocalDevice
from netadapt_onnx.profilers.devices.perf_test import parse_times
from netadapt_onnx.profilers.devices.remote import RemoteDevice
from netadapt_onnx.profilers.devices.shell import ConnectionLostError, Lines, RemoteFailureError, Shell, await_end
from netadapt_onnx.profilers.devices.shell_device import MOST_FAILURES, RETRY_S
from netadapt_onnx.profilers.execution import CPU
from netadapt_onnx.profilers.records import Job, MeasuredModel

Record = dict[str, Any]
Attempt = list[Record | bytes | Exception]


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Scripted(Shell):
    """A device that describes itself, and then goes through attempts: what each writes, and how it ends."""

    def __init__(self, attempts: Callable[[int], Attempt], described: bytes | None = None) -> None:
        super().__init__("ssh://board", ".cache/test")
        self.attempts = attempts
        self.described = json.dumps(environment()).encode() if described is None else described
        self.commands: list[str] = []
        self.tries = 0

    def call(self, command: str, *, seconds: float = 0.0) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        return subprocess.CompletedProcess([], 0, "", "")

    def push(self, files: Sequence[Path]) -> None:
        self.commands.append("push " + " ".join(file.suffix for file in files))

    def stream(self, command: str) -> Iterator[bytes]:
        if "--describe" in command:
            yield self.described + b"\n"
            return
        self.tries += 1
        for output in self.attempts(self.tries):
            if isinstance(output, Exception):
                raise output
            yield output if isinstance(output, bytes) else json.dumps(output).encode() + b"\n"


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(shell_device, "time", SimpleNamespace(monotonic=clock, sleep=clock.sleep))
    return clock


@pytest.fixture(scope="module")
def order() -> Order:
    jobs = (Job((0, 1), -1, True, 2, "interval", 0.05, (3, 5), 0.2, 0, None, 1),)
    models = {number: plain((width, 8), size=8) for number, width in ((-1, 16), (0, 8), (1, 4))}
    return Order(models, {"image": np.ones((1, 3, 8, 8), np.float32)}, CPU, jobs)


@pytest.fixture(scope="module")
def truth(order: Order) -> Attempt:
    """The records that an honest device answers with."""
    with_order: Attempt = []

    class Recorder(LocalDevice):
        def run(self, manifest: str, results: str) -> Iterator[Any]:
            for record in super().run(manifest, results):
                with_order.append(msgspec.to_builtins(record))
                yield record

    measure_on(Recorder(), order)
    return with_order


def device(
    attempts: Callable[[int], Attempt], log: Callable[[str], None] | None = None, **options: Any
) -> RemoteDevice:
    return RemoteDevice(Scripted(attempts, **options), log=log)


def test_an_honest_answer_is_taken(order: Order, truth: Attempt, time: Time) -> None:
    result = measure_on(device(lambda _: truth), order)
    assert sorted(result) == [0, 1]
    assert all(len(one.reference_ms) == 2 * len(one.ms) for one in result.values())


@pytest.mark.parametrize(
    "end",
    [
        RemoteFailureError("the agent was killed (signal 9)"),
        ChildProcessError(2, "MemoryError"),
        ConnectionLostError("connection reset"),
    ],
    ids=["killed", "failing", "cut off"],
)
@pytest.mark.parametrize("spoken", [True, False])
def test_a_device_that_never_gets_on_is_given_up(
    end: Exception, spoken: bool, order: Order, truth: Attempt, time: Time
) -> None:
    message: list[str] = []
    board = device(lambda _: [*(truth[:2] if spoken else []), end], message.append)
    with pytest.raises(NetadaptError) as caught:
        measure_on(board, order)
    board.close()
    assert "ssh://board" in caught.value.message
    assert str(end.args[-1]) in caught.value.message
    assert "run the same command again" in caught.value.hint
    scripted = board._shell
    assert isinstance(scripted, Scripted)
    assert scripted.tries == (
        MOST_FAILURES if not isinstance(end, ConnectionLostError) or "killed" in str(end) else len(message) + 1
    )
    assert scripted.tries < 20
    assert time.now <= RETRY_S
    assert scripted.commands[-1] == "rm -rf .cache/test"


def test_a_device_that_gets_on_a_little_at_a_time_is_kept(order: Order, truth: Attempt, time: Time) -> None:
    """Each connection brings the earlier records and one more; what it works for is no time of failures."""
    cut = ConnectionLostError("connection reset")

    def attempts(n: int) -> Attempt:
        time.now += 3 * RETRY_S
        return [*truth[: 2 + n], cut] if n < 3 else truth

    assert sorted(measure_on(device(attempts), order)) == [0, 1]


def test_results_that_cannot_be_gone_on_with_are_begun_anew(order: Order, truth: Attempt, time: Time) -> None:
    refused = ChildProcessError(2, "x.jsonl was begun on another device or onnxruntime (onnxruntime: 1 there, 2 here)")
    message: list[str] = []
    board = device(lambda n: [refused] if n == 1 else truth, message.append)
    assert sorted(measure_on(board, order)) == [0, 1]
    assert "begun on another device" in message[0]
    assert any(c.startswith("rm -f") and ".jsonl" in c for c in board._shell.commands[:8])  # type: ignore[attr-defined]


def test_a_device_that_changes_meanwhile_is_refused_by_what_differs(order: Order, truth: Attempt, time: Time) -> None:
    other: Record = {"record": "environment", "environment": {**environment(), "onnxruntime": "0.1"}}
    with pytest.raises(NetadaptError, match=r"not the device that it was \(onnxruntime: 1\S* there, 0\.1 here\)"):
        measure_on(device(lambda _: [truth[0], other, *truth[2:]]), order)


@pytest.mark.parametrize("described", [b"", b"{}", b"no json", b"[1]", b'{"cpu": 3}', b"[" * 10_000], ids=str)
def test_a_device_that_does_not_say_what_it_is_is_refused(described: bytes, order: Order, time: Time) -> None:
    board = device(lambda _: [], described=described)
    with pytest.raises(NetadaptError, match="ssh://board: the agent does not say what device this is"):
        measure_on(board, order)
    board.close()
    assert board._shell.commands[-1] == "rm -rf .cache/test"  # type: ignore[attr-defined]


LIES: list[tuple[str, Any]] = [
    *(("ms", value) for value in ([], [-1.0, 1.0], [0.0, 1.0], [1e9, 1e9], [1.0], [1.0] * 3, "1", None, [None, None])),
    *(("median_ms", value) for value in ([1e-9, 1e-9], [3e5, 3e5], [1.0])),
    *(("reference_ms", value) for value in ([], [1.0], [1.0] * 6)),
    *(("reference_us", value) for value in (0, -1.0, "x")),
    *(("us", value) for value in ({"conv1": -1.0}, [1], {"conv1": 1e12})),
    *(("seconds", value) for value in (-1.0, 1e9, None)),
    *(("model", value) for value in (2, -1, 10**30, "0")),
    *(("job", value) for value in (1, -1, 0.5)),
    *(("rounds", value) for value in (0, -3, "many")),
    *(("optimised", value) for value in ("", "no base64!", base64.b64encode(b"no zlib").decode())),
    ("optimised", base64.b64encode(zlib.compress(b"no model")).decode()),
    ("optimised", base64.b64encode(zlib.compress(bytes(packing.MOST_BYTES + 1))).decode()),
    ("record", "unknown"),
    ("placement", {"CPUExecutionProvider": -1}),
]


@pytest.mark.parametrize(("field", "value"), LIES, ids=[f"{f}={str(v)[:20]}" for f, v in LIES])
def test_what_cannot_be_true_is_refused_with_the_fields_name(
    field: str, value: Any, order: Order, truth: Attempt, time: Time
) -> None:
    lying = [{**r, field: value} if isinstance(r, dict) and r["record"] == "measured" else r for r in truth]
    with pytest.raises(NetadaptError) as caught:
        measure_on(device(lambda _: lying), order)
    assert "ssh://board" in caught.value.message
    assert field in caught.value.message
    assert len(caught.value.message) < 500
    assert caught.value.code == "results"


@pytest.mark.parametrize(
    "line",
    [b"no json\n", b"NaN\n", b"{}\n", b"[1]\n", b"\xff\n", b"null\n", b'{"record":' * 9000 + b"\n"],
    ids=range(7),
)
def test_a_line_that_is_no_record_is_refused_by_its_number(
    line: bytes, order: Order, truth: Attempt, time: Time
) -> None:
    with pytest.raises(NetadaptError, match=r"ssh://board, record 3: "):
        measure_on(device(lambda _: [*truth[:2], line]), order)


def test_another_format_is_refused(order: Order, truth: Attempt, time: Time) -> None:
    first = truth[0]
    assert isinstance(first, dict)
    later = {"record": "manifest", "manifest": {**first["manifest"], "schema": 99}}
    with pytest.raises(NetadaptError, match="schema: format 99, and this version reads 1"):
        measure_on(device(lambda _: [later, *truth[1:]]), order)


def test_a_model_that_failed_there_cannot_write_to_our_terminal(order: Order, truth: Attempt, time: Time) -> None:
    failed: Record = {"record": "failed", "job": 0, "model": 0, "error": "node '\x1b[2J\x07\u202e' has no kernel"}
    board = device(lambda _: [*truth[:2], failed])
    with pytest.raises(NetadaptError, match="cannot run the model: node '") as caught:
        measure_on(board, order)
    assert caught.value.message.isprintable()
    assert any(c.startswith("rm -f") for c in board._shell.commands)  # type: ignore[attr-defined]


def test_records_without_end_are_refused(order: Order, truth: Attempt, time: Time) -> None:
    with pytest.raises(NetadaptError, match="records that say nothing new"):
        measure_on(device(lambda _: [truth[0], *[truth[1]] * 20_000]), order)


def test_times_of_perf_test_that_cannot_be_are_refused() -> None:
    for seconds in ("-0.001", "0", "0.0", "nan", "inf", "1e9", "-inf", "4000"):
        with pytest.raises(ChildProcessError, match="wrote a time of"):
            parse_times(f"m,0.0012,1000,99,0\nm,{seconds},1000,99,1\n")


class LocalShell(Shell):
    """A shell of this machine."""

    def argv(self, command: str) -> list[str]:
        return ["sh", "-c", command]

    def broken(self, code: int, error: str) -> bool:
        return False

    def pull_argv(self, name: str, target: Path) -> list[str]:
        return ["cp", name, str(target)]


def test_a_line_and_a_file_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "MOST_LINE_BYTES", 100_000)
    monkeypatch.setattr(shell, "MOST_OUTPUT_BYTES", 1000)
    monkeypatch.setattr(shell, "MOST_PULLED_BYTES", 5)
    board = LocalShell("board", "x")
    with pytest.raises(NetadaptError, match="board wrote a line of more than"):
        list(board.stream("echo one; head -c 300000 /dev/zero; echo; sleep 100"))
    assert board.call("head -c 100000 /dev/zero | tr '\\0' a; echo end").stdout == "a" * 996 + "end\n"
    (tmp_path / "large").write_bytes(b"123456")
    with pytest.raises(NetadaptError, match="more than 5 bytes"):
        board.pull(str(tmp_path / "large"))


def test_part_of_a_line_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record over a slow link takes longer than any silence may; a last one that is torn is none."""
    reader, writer = os.pipe()
    stream = io.BufferedReader(io.FileIO(reader))
    lines = Lines(stream, "board")
    for part in (b"a", b"b", b"c\nd"):
        os.write(writer, part)
        assert lines._lines.get(timeout=600) == (b"abc\n" if b"\n" in part else b"\n")
    os.close(writer)
    assert lines._lines.get(timeout=600) == b""
    lines.close()


class Process:
    """One that ends after so many looks at it."""

    args: Sequence[str] = ()

    def __init__(self, looks: int) -> None:
        self.looks_left = looks

    def wait(self, timeout: float) -> int:
        self.looks_left -= 1
        if self.looks_left < 0:
            return 0
        raise subprocess.TimeoutExpired(self.args, timeout)


def test_copying_counts_as_dead_when_nothing_more_arrives_and_not_when_it_is_slow() -> None:
    sizes = iter(range(1000))
    await_end(Process(500), 60.0, 60.0, lambda: next(sizes))  # type: ignore[arg-type]
    steady = Process(500)
    arrived = iter([*range(20), *[19] * 1000])
    with pytest.raises(subprocess.TimeoutExpired):
        await_end(steady, 60.0, 60.0, lambda: next(arrived))  # type: ignore[arg-type]
    assert steady.looks_left == 500 - 21
    unreachable = Process(500)
    with pytest.raises(subprocess.TimeoutExpired):
        await_end(unreachable, 1.0, 60.0, lambda: None)  # type: ignore[arg-type]
    assert unreachable.looks_left == 500 - 60
    await_end(Process(0), 1.0, 1.0, None)  # type: ignore[arg-type]


def test_records_are_checked_where_they_are_made_as_well() -> None:
    with pytest.raises(ValueError, match="median_ms: 1 sessions, and 2 in ms"):
        MeasuredModel(0, 0, 20, 1.0, [1.0, 1.0], [1.0])
