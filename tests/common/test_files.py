"""Files are there as a whole or not at all, and what killed processes left of others is cleared away."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from netadapt_onnx.common.files import aside, digest, folder_aside, refuse_existing, remove_leftovers, write_atomically
from netadapt_onnx.errors import NetadaptError

KILLED = """
import os, signal, sys
from pathlib import Path
from netadapt_onnx.common.files import aside, folder_aside

with aside(Path(sys.argv[1])) as temporary, folder_aside(temporary) as folder:
    temporary.write_text("half")
    (folder / "weights").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
        assert names(tmp_path) == ["file"]
    assert digest(tmp_path / "file") == hashlib.sha256(b"second").hexdigest()


def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), aside(tmp_path / "file") as temporary, folder_aside(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_the_next_write_clears_away_what_a_killed_process_left(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file")], check=False)
    assert len(names(tmp_path)) == 2 and "file" not in names(tmp_path)
    write_atomically(tmp_path / "file", b"whole")
    assert names(tmp_path) == ["file"]


def test_what_a_living_process_writes_is_not_cleared_away(tmp_path: Path) -> None:
    with aside(tmp_path / "file") as temporary:
        temporary.write_text("half")
        remove_leftovers(tmp_path)
        assert temporary.exists()
    assert (tmp_path / "file").read_text() == "half"


def test_only_leftovers_are_cleared_away_of_one_file_or_of_all_below(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in (".a.1.tmp", ".b.2.tmp", ".c.tmp", "d.3.tmp", "inner/.e.4.tmp"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path, "a")
    assert names(tmp_path) == [".b.2.tmp", ".c.tmp", "d.3.tmp", "inner"]
    remove_leftovers(tmp_path, below=True)
    assert names(tmp_path) == [".c.tmp", "d.3.tmp", "inner"]
    assert names(tmp_path / "inner") == []


def test_only_a_file_may_be_overwritten_and_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refuse_existing(tmp_path / "new", overwrite=False)
    refuse_existing(tmp_path / "file", overwrite=True)
    for path, overwrite, code in (
        (tmp_path / "file", False, "exists"),
        (tmp_path, True, "exists"),
        (tmp_path / "nowhere" / "file", True, "missing-file"),
    ):
        with pytest.raises(NetadaptError) as caught:
            refuse_existing(path, overwrite)
        assert caught.value.code == code
