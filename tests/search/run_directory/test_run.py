"""A run directory: one owner, one identity, and nothing that a kill can lose or tear."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.run_directory.journal import Lines
from netadapt_onnx.search.run_directory.run import Run, is_running

IDENTITY = {"model": "abc", "budget": ["macs=0.5x"], "seed": 0}


def opened(path: Path, *, resume: bool = False, iterations: int = 10, **changes: object) -> Run:
    return Run.open(path, IDENTITY | changes, growing={"max_iterations": iterations}, resume=resume)


def test_a_run_starts_where_nothing_is_and_resumes_where_it_was(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        assert run.once("time", lambda: 12.5) == 12.5
    with opened(tmp_path / "run", resume=True) as run:
        assert run.once("time", lambda: 99.0) == 12.5
    with opened(tmp_path / "fresh", resume=True):
        assert (tmp_path / "fresh" / "run.json").exists()


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    opened(tmp_path / "run").__exit__(None, None, None)
    with pytest.raises(NetadaptError, match="--resume"):
        opened(tmp_path / "run")


def test_a_directory_with_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(NetadaptError, match="is not a run"):
            opened(tmp_path, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(NetadaptError, match="is a file"):
        opened(tmp_path / "thesis.tex")
    with pytest.raises(NetadaptError, match="no such folder"):
        opened(tmp_path / "missing" / "run")


def test_another_runs_directory_is_refused_naming_what_differs(tmp_path: Path) -> None:
    opened(tmp_path).__exit__(None, None, None)
    with pytest.raises(
        NetadaptError, match=r'budget is \["macs=0.5x"\] there, \["macs=0.4x"\] here; seed is 0 there, 1 h'
    ):
        opened(tmp_path, resume=True, budget=["macs=0.4x"], seed=1)
    with pytest.raises(NetadaptError, match="criterion is null there, l1 here"):
        opened(tmp_path, resume=True, criterion="l1")


def test_max_iterations_may_grow_only(tmp_path: Path) -> None:
    opened(tmp_path).__exit__(None, None, None)
    opened(tmp_path, resume=True, iterations=20).__exit__(None, None, None)
    with pytest.raises(NetadaptError, match="max_iterations is 20 there, 10 here"):
        opened(tmp_path, resume=True, iterations=10)


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from netadapt_onnx.search.run_directory.run import Run\n"
        "run = Run.open(Path(sys.argv[1]), {}, growing={}, resume=True)\n"
        "print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(NetadaptError, match="in use by another process"):
            Run.open(tmp_path, {}, growing={}, resume=True)
        owner.kill()
    Run.open(tmp_path, {}, growing={}, resume=True).__exit__(None, None, None)


def test_a_torn_last_line_is_forgotten_and_the_list_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    for torn in (b'{"a": 3', b'{"a": 3\n', b'{"a": 3}', b"\xff\n"):
        path.write_bytes(b'{"a":1}\n{"a":2}\n' + torn)
        lines = Lines(path, dict[str, int])
        assert lines.items == [{"a": 1}, {"a": 2}]
        lines.append({"a": 4})
        assert Lines(path, dict[str, int]).items == [{"a": 1}, {"a": 2}, {"a": 4}]


def test_a_corrupt_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_bytes(b'{"a":1}\nnonsense\n{"a":2}\n')
    with pytest.raises(NetadaptError, match="line 2"):
        Lines(path, dict[str, int])


def test_seconds_add_up_over_resumes(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run._earlier = 100.0
    with opened(tmp_path, resume=True) as run:
        assert run.seconds() >= 100.0


def test_an_option_that_only_one_version_knows_counts_where_it_is_on(tmp_path: Path) -> None:
    opened(tmp_path / "off", gone=False).__exit__(None, None, None)
    opened(tmp_path / "off", resume=True, new=0).__exit__(None, None, None)
    opened(tmp_path / "on", gone=True).__exit__(None, None, None)
    with pytest.raises(NetadaptError, match="gone is true there, null here") as refused:
        opened(tmp_path / "on", resume=True)
    assert refused.value.hint == "use the version that began it or name another directory"


def test_whether_a_run_is_on_is_asked_of_its_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert not is_running(folder)
    assert not list(folder.iterdir())
    with Run.open(folder, {}, growing={}, resume=True):
        assert is_running(folder)
    assert not is_running(folder)
    with Run.open(folder, {}, growing={}, resume=True):  # asking has not taken it away
        assert is_running(folder)


def test_a_run_records_when_it_started_and_keeps_that(tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        with Run.open(tmp_path / "run", {}, growing={}, resume=True, about={"command": "adapt"}):
            texts.append((tmp_path / "run" / "run.json").read_text())
    about = json.loads(texts[0])["about"]
    assert about["command"] == "adapt" and about["started"].endswith("+00:00")
    assert texts[0] == texts[1]
