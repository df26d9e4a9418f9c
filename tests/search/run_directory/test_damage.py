"""Run directories that were emptied, cut, mixed up or changed: what is read agrees with the disk, or is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest

from models import plain
from netadapt_onnx import cli
from netadapt_onnx.api.adapt import adapt
from netadapt_onnx.api.report import read_run
from netadapt_onnx.api.restore import restore
from netadapt_onnx.api.scale import scale
from netadapt_onnx.common.files import aside, remove_leftovers
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load
from netadapt_onnx.search.result import AdaptResult
from netadapt_onnx.search.run_directory.file_names import HISTORY_FILE

pytestmark = pytest.mark.usefixtures("fixed_training_settings")

BUDGET = "params=0.35x"


INTERRUPTED: list[Path] = []


def score(proto: onnx.ModelProto) -> float:
    """Higher for wider models. Interrupts a run of `INTERRUPTED` that has made two iterations."""
    for run in INTERRUPTED:
        if (run / HISTORY_FILE).exists() and (run / HISTORY_FILE).read_bytes().count(b"\n") == 2:
            raise KeyboardInterrupt
    return sum(tensor.dims[0] for tensor in proto.graph.initializer if tensor.name.endswith(".weight")) / 1000


def resumed(folder: Path, run: Path, budget: str = BUDGET) -> AdaptResult:
    """Start a run, or go on with it."""
    return adapt(
        folder / "model.onnx", None, budget, run, evaluate=score, step=2, init_reduction_ratio=0.2, resume=True
    )


@pytest.fixture(scope="module", autouse=True)
def without_waiting_for_the_disk() -> Iterator[None]:
    """No power is cut here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its runs: one finished, one interrupted, one with another budget."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "model.onnx").write_bytes(plain((8, 12, 16), size=8).SerializeToString())
    result = resumed(folder, folder / "finished")
    assert result.met and result.iterations > 2
    INTERRUPTED.append(folder / "interrupted")
    with pytest.raises(KeyboardInterrupt):
        resumed(folder, folder / "interrupted")
    INTERRUPTED.clear()
    resumed(folder, folder / "other", "params=0.8x")
    return folder


def emptied(data: bytes, other: bytes) -> bytes:
    return b""


def cut_in_half(data: bytes, other: bytes) -> bytes:
    return data[: len(data) // 2]


def without_its_first_line(data: bytes, other: bytes) -> bytes:
    return data.partition(b"\n")[2]


def without_its_last_line(data: bytes, other: bytes) -> bytes:
    return data[: data.rstrip(b"\n").rfind(b"\n") + 1]


def with_its_last_line_twice(data: bytes, other: bytes) -> bytes:
    return data + data[data.rstrip(b"\n").rfind(b"\n") + 1 :]


def of_another_run(data: bytes, other: bytes) -> bytes:
    return other


def with_a_digit_changed(data: bytes, other: bytes) -> bytes:
    place = [match.start() for match in re.finditer(rb"[1-8]", data)]
    if not place:
        return data + b"1"
    middle = place[len(place) // 2]
    return data[:middle] + b"9" + data[middle + 1 :]


def not_utf8(data: bytes, other: bytes) -> bytes:
    return b"\xff\xfe" + data


DAMAGES = [
    emptied,
    cut_in_half,
    without_its_first_line,
    without_its_last_line,
    with_its_last_line_twice,
    of_another_run,
    with_a_digit_changed,
    not_utf8,
]
# What is only written, for people to read.
NOT_READ = {"plan.toml", "pareto.json", "report.html"}


def files_of(run: Path) -> list[str]:
    """The files of a run that are read; of iterations and proposals those of the last."""
    names = sorted(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file())
    last = [name for name in names if "proposals" in name][-2:]
    last += [name for name in names if name.startswith("iterations") and "proposals" not in name][-3:]
    return [n for n in names if (n in last or "/" not in n) and Path(n).name not in {".lock", *NOT_READ}]


def widths(model: Path) -> dict[str, int]:
    dims = {tensor.name: tensor.dims[0] for tensor in load(model).proto.graph.initializer}
    return {f"conv{number}": dims[f"conv{number}.weight"] for number in (1, 2, 3)}


def agrees(result: AdaptResult, run: Path) -> bool:
    """Whether a result, the history and the model tell the same widths."""
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    widths_after = {name: after for name, (_, after) in result.groups.items()}
    return widths_after == last["widths"] == widths(run / "model.onnx") and result.iterations == last["iteration"]


def refusal(work: Callable[[], object]) -> str:
    """The one line with which something is refused; empty if it is not."""
    try:
        work()
    except NetadaptError as error:
        assert error.code in ("corrupt-run", "other-run", "not-onnx", "exists"), error
        assert "\n" not in str(error) and error.hint
        return str(error)
    return ""


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_what_is_resumed_agrees_with_the_disk_or_is_refused(
    state: str, damage: Callable[[bytes, bytes], bytes], runs: Path, tmp_path: Path
) -> None:
    """Each file of the run on its own."""
    for number, name in enumerate(files_of(runs / state)):
        run = tmp_path / str(number)
        shutil.copytree(runs / state, run)
        data, other = (run / name).read_bytes(), runs / "other" / name
        (run / name).write_bytes(damage(data, other.read_bytes() if other.exists() else b"{}"))
        why = refusal(lambda: check(runs, run))  # noqa: B023 -- called at once
        assert not why or Path(name).name in why or "belongs to another run" in why, (name, why)
        if name == "history.jsonl" or (state == "finished" and name in ("result.json", "model.onnx", "layers.json")):
            as_if_killed = state == "interrupted" and damage is cut_in_half
            assert why or as_if_killed or name == "layers.json", f"{name} was taken as it is"
            assert state == "interrupted" or refusal(lambda: read_run(run))  # noqa: B023


def check(runs: Path, run: Path) -> None:
    assert agrees(resumed(runs, run), run)
    assert agrees(resumed(runs, run), run)  # now a finished one


@pytest.mark.parametrize("name", ["history.jsonl", "journal.jsonl", "iterations/001/kept.json", "iterations/002"])
@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_a_run_without_one_of_its_files_agrees_or_is_refused(name: str, state: str, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / state, run)
    shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    why = refusal(lambda: check(runs, run))
    assert bool(why) == name.endswith(".jsonl") or name in why


@pytest.mark.parametrize("damage", [b"{", b'{"kept":"\xff"}', b"[" * 5000, b'{"kept":' * 5000], ids=range(4))
@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_damaged_runs_of_versions_that_sealed_nothing_are_refused_by_name_too(
    state: str, damage: bytes, runs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / state, run)
    recorded = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps(recorded | {"sealed": False}))
    for name in files_of(run):
        data = (run / name).read_bytes()
        if name.endswith((".json", ".jsonl")):
            (run / name).write_bytes(damage + b"\n" + damage)
            for work in (lambda: resumed(runs, run), lambda: read_run(run), lambda: restore(run, 1, tmp_path / "m")):
                why = refusal(work)
                assert not why or Path(name).name in why or "readable as a run" in why, (name, why)
        (run / name).write_bytes(data)
        (tmp_path / "m").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["model.onnx", "result.json", ".target-1.json"])
def test_what_can_be_made_again_is(name: str, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "finished", run)
    before = (run / "model.onnx").read_bytes()
    (run / name).unlink()
    check(runs, run)
    assert (run / "model.onnx").read_bytes() == before


def test_history_and_journal_of_before_are_gone_on_from(runs: Path, tmp_path: Path) -> None:
    """All that is later is made again: both were emptied, and the models of iterations are still there."""
    run = tmp_path / "run"
    shutil.copytree(runs / "finished", run)
    for name in ("history.jsonl", "journal.jsonl"):
        (run / name).write_bytes(b"")
    check(runs, run)


def test_a_torn_last_line_is_made_again(runs: Path, tmp_path: Path) -> None:
    """Of an interrupted run, at every place where a kill can tear the history: before it was sealed, or even after."""
    undamaged = tmp_path / "whole"
    shutil.copytree(runs / "interrupted", undamaged)
    history = (undamaged / "history.jsonl").read_bytes()
    first = history.index(b"\n") + 1
    ends = (first + 1, len(history) - 1, first, (first + len(history)) // 2, len(history))
    for number, end in enumerate(ends):
        if number == 2:
            lines = (undamaged / "journal.jsonl").read_bytes().splitlines(keepends=True)
            place = max(i for i, line in enumerate(lines) if b"sha256-of-line/2" in line)
            (undamaged / "journal.jsonl").write_bytes(b"".join(lines[:place]))
        run = tmp_path / str(number)
        shutil.copytree(undamaged, run)
        (run / "history.jsonl").write_bytes(history[:end])
        check(runs, run)
        for name in ("history.jsonl", "model.onnx"):
            assert (run / name).read_bytes() == (runs / "finished" / name).read_bytes()


def test_reading_a_run_changes_nothing_in_it(runs: Path, tmp_path: Path) -> None:
    """Its writer may be in the middle of a line."""
    run = tmp_path / "run"
    shutil.copytree(runs / "interrupted", run)
    with (run / "history.jsonl").open("ab") as file:
        file.write(b'{"iteration":3,"gro')
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert restore(run, 2, tmp_path / "second.onnx").iteration == 2
    assert widths(tmp_path / "second.onnx") == json.loads(before[run / "history.jsonl"].splitlines()[1])["widths"]
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("name", ["history.jsonl", "iterations/001/model.onnx", "iterations/001/plan.toml"])
def test_nothing_damaged_is_restored(name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "out.onnx"
    shutil.copytree(runs / "finished", run)
    (run / name).write_bytes((runs / "other" / name).read_bytes() + b" ")
    assert cli.run(["restore", str(run), "--iteration", "1", "-o", str(out)]) == 2
    assert re.search(rf"error: .*{Path(name).name}.*; .*put it back", capsys.readouterr().err)
    assert not out.exists()


def test_scaled_networks_are_those_that_were_made(tmp_path: Path, runs: Path) -> None:
    def go() -> object:
        return scale(runs / "model.onnx", target="params=0.5x", method="uniform", out=tmp_path / "run", resume=True)

    go()
    (model,) = (tmp_path / "run" / "models").rglob("model.onnx")
    shutil.copy(runs / "model.onnx", model)
    assert "model.onnx: it is not what this run wrote there" in refusal(lambda: read_run(tmp_path / "run"))
    go()  # which makes it again
    assert not refusal(lambda: read_run(tmp_path / "run"))
    (tmp_path / "run" / "result.json").write_bytes(b"{}")
    assert "result.json" in refusal(lambda: read_run(tmp_path / "run"))


HOLD = """
import sys, time
from pathlib import Path
from netadapt_onnx.common.files import aside
with aside(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print(temporary, flush=True)
    time.sleep(60)
"""


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """What a process that is in the middle of writing a file writes aside; it is killed at the end."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_what_a_killed_process_wrote_aside_goes_with_the_next_write(tmp_path: Path) -> None:
    with writing(tmp_path / "out.onnx") as unfinished:
        for action in (lambda: remove_leftovers(tmp_path, below=True), lambda: write(tmp_path / "out.onnx")):
            action()
            assert unfinished.read_bytes() == b"half"  # its writer is alive
    others = [tmp_path / name for name in (".out.onnx.tmp", ".out.onnx.12x.tmp", "out.onnx.12.tmp", ".o.onnx.12.tmp")]
    for other in others:
        other.touch()
    write(tmp_path / "out.onnx")
    assert {file.name for file in tmp_path.iterdir()} == {"out.onnx", *(other.name for other in others)}


def write(path: Path) -> None:
    with aside(path) as temporary:
        temporary.write_bytes(b"whole")


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(RuntimeError), aside(tmp_path / "file") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"before")]


def test_a_resumed_run_clears_away_what_killed_ones_were_writing(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "interrupted", run)
    leftovers = [run / ".model.onnx.1.tmp", run / "iterations" / "001" / ".kept.json.99999999.tmp"]
    with writing(run / "report.html") as alive:
        for file in leftovers:
            file.write_bytes(b"half")
        resumed(runs, run)
        assert not any(file.exists() for file in leftovers)
        assert alive.exists()
    resumed(runs, run)
    assert not list(run.rglob("*.tmp"))
