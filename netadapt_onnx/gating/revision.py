"""Checks a model out of a git revision: the file, its external data, and what Git LFS keeps of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path, PurePosixPath

from netadapt_onnx.common.files import digest
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.jobs import LocateJob
from netadapt_onnx.gating.sandbox import Sandbox

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*?oid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)
_LARGEST_POINTER_BYTES = 1024
_GIT_TIMEOUT_S = 60


def unusable(message: str, hint: str = "") -> NetadaptError:
    """An error of code `baseline`, to be raised."""
    return NetadaptError(message, hint=hint, code="baseline")


def check_out(revision: str, model: Path, folder: Path, sandbox: Sandbox) -> Path | None:
    """Write a model as it was at a revision, with its external data.

    Args:
        revision: what git calls it.
        model: the model's path.
        folder: where the files are written.
        sandbox: it reads where the model keeps its external data.

    Returns:
        The written file; None if the revision does not have it.

    Raises:
        NetadaptError: there is no git, no repository or no such revision, or an LFS object was not fetched.
    """
    home = model.absolute().parent
    commit = _commit(revision, home)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / model.name
    if not _write(commit, PurePosixPath(model.name), home, target):
        return None
    try:
        locations = sandbox.ask(LocateJob(str(target)), list[str])
    except NetadaptError as error:
        message = error.message.replace(str(target), f"{model} at {revision}")
        raise NetadaptError(message, hint=error.hint, code=error.code) from error
    for location in locations:
        if not _write(commit, PurePosixPath(location), home, folder / location):
            raise NetadaptError(f"{model} at {revision} lacks its external data '{location}'", code="external-data")
    return target


def _commit(revision: str, home: Path) -> str:
    if _git(["rev-parse", "--is-inside-work-tree"], home) is None:
        raise unusable(f"{home} is in no git repository", "give --baseline FILE")
    commit = _git(["rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"], home)
    if not commit:
        hint = "fetch it (a CI checkout often holds one commit: fetch-depth: 0)"
        raise unusable(f"git knows no revision '{revision}' here", hint)
    return commit.decode().strip()


def _write(commit: str, path: PurePosixPath, home: Path, target: Path) -> bool:
    """Write a file's contents, those of an LFS pointer from where LFS keeps them; False if there is no such file."""
    listed = _git(["ls-tree", "-z", commit, "--", f"./{path}"], home)
    if not listed:
        return False
    mode, kind, blob = listed.split(b"\t")[0].split()
    if kind != b"blob" or mode == b"120000":
        raise unusable(f"{path} at {commit[:12]} is a link and no file")
    target.parent.mkdir(parents=True, exist_ok=True)
    if _git(["cat-file", "blob", blob.decode()], home, target) is None:
        raise unusable(f"git lacks the contents of {path} at {commit[:12]}", "fetch them")
    small = target.stat().st_size <= _LARGEST_POINTER_BYTES
    pointer = _POINTER.fullmatch(target.read_bytes()) if small else None
    if pointer is not None:
        shutil.copyfile(_in_lfs(pointer[1].decode(), path, commit, home), target)
    return True


def _in_lfs(oid: str, path: PurePosixPath, commit: str, home: Path) -> Path:
    """Find the file in which LFS keeps an object.

    Raises NetadaptError if there is none, or if it is not that object.
    """
    storage = (_git(["config", "--path", "lfs.storage"], home) or b"lfs").decode().strip()
    common = (_git(["rev-parse", "--git-common-dir"], home) or b".git").decode().strip()
    file = home / common / storage / "objects" / oid[:2] / oid[2:4] / oid
    if not file.is_file():
        missing = f"{path} at {commit[:12]} is in Git LFS, and its object {oid[:12]} was not fetched"
        raise unusable(missing, f"git lfs fetch origin {commit}")
    if digest(file) != oid:
        raise unusable(f"the Git LFS object {oid[:12]} of {path} is damaged", "git lfs fsck")
    return file


def _git(arguments: list[str], home: Path, target: Path | None = None) -> bytes | None:
    """The output of git, or nothing if it goes into `target`; None where it fails.

    Raises NetadaptError without git, and where git refuses the repository.
    """
    try:
        with target.open("wb") if target is not None else nullcontext(subprocess.PIPE) as out:
            done = subprocess.run(
                ["git", *arguments],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                timeout=_GIT_TIMEOUT_S,
                check=False,
            )
    except FileNotFoundError as error:
        raise unusable("git is not installed", "give --baseline FILE") from error
    except subprocess.TimeoutExpired as error:
        raise NetadaptError(f"git {arguments[0]} took longer than {_GIT_TIMEOUT_S} s", code="timeout") from error
    if b"dubious ownership" in done.stderr:
        raise unusable(
            f"git does not trust the repository of {home}: it belongs to another user",
            f"git config --global --add safe.directory {home}",
        )
    return (done.stdout or b"") if done.returncode == 0 else None
