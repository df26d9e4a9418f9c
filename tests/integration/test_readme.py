"""What the documentation says to type is what there is: every block is run, or says why not; links lead somewhere.

Each page's blocks are run in order in one folder, as its reader would.
"""

from __future__ import annotations

import doctest
import io
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml

import netadapt_onnx
from documentation import OUTPUT, REPOSITORY, Block, anchors, blocks, commands, links, pages
from models import channels_last, plain
from netadapt_onnx import cli
from netadapt_onnx.common import config
from netadapt_onnx.profilers.providers import PROVIDERS
from netadapt_onnx.surgery.rules.registry import RULES
from report_runs import finished

PAGES = pages()
BLOCKS = [block for page in PAGES for block in blocks(page)]
PROGRAM = "netadapt-onnx "
# What Python knows after the blocks of a page so far: they are one session.
SESSIONS: dict[Path, dict[str, object]] = {}
REFERENCE = runpy.run_path(str(REPOSITORY / "docs" / "reference.py"))


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.fixture(scope="session")
def supplies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages assume that their reader has: a model, data, a network in PyTorch, another model, a repository."""
    folder = tmp_path_factory.mktemp("supplies")
    (folder / "model.onnx").write_bytes(plain((8, 16), size=8).SerializeToString())
    shutil.copy(folder / "model.onnx", folder / "before.onnx")
    (folder / "keras.onnx").write_bytes(channels_last(size=8).SerializeToString())
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.standard_normal((32, 3, 8, 8)).astype(np.float32) for s in ("train", "val", "test")}
    labels = {f"y_{s}": rng.integers(0, 10, 32) for s in ("train", "val", "test")}
    np.savez(folder / "data.npz", **arrays, **labels)
    (folder / "net.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)\n"
    )
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q", "-b", "main"], ["add", "model.onnx"], ["commit", "-q", "-m", "model"]):
        subprocess.run([*git, *words], cwd=folder, check=True, capture_output=True)
    return folder


def _shell(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands(block):
        assert line.startswith(PROGRAM), (
            f"{block.place}: '{line}' is not ours: mark the block with <!-- not run: why -->"
        )
        code = cli.run(shlex.split(line, comments=True)[1:])
        out, err = capsys.readouterr()
        assert code == 0, f"{block.place}: {line}\n{out}{err}"


def _python(block: Block, _: pytest.CaptureFixture[str]) -> None:
    exec(compile(block.text, block.place, "exec"), SESSIONS.setdefault(block.page, {"__name__": "__main__"}))


def _toml(block: Block, _: pytest.CaptureFixture[str]) -> None:
    content = tomllib.loads(block.text)
    if set(content) == {"groups"}:  # a plan: the commands after it replay it
        Path("plan.toml").write_text(block.text)
        return
    inside = "tool" in content
    file = Path("pyproject.toml" if inside else "netadapt.toml")
    file.write_text(block.text)
    for section in config.SECTIONS:
        config.read(file, section, object)
    file.unlink()


def _yaml(block: Block, _: pytest.CaptureFixture[str]) -> None:
    assert yaml.safe_load(block.text)


def _pycon(block: Block, _: pytest.CaptureFixture[str]) -> None:
    """A session with its answers."""
    names = SESSIONS.setdefault(block.page, {"__name__": "__main__"})
    test = doctest.DocTestParser().get_doctest(block.text, names, block.place, str(block.page), 0)
    assert test.examples, f"{block.place}: nothing is typed"
    runner, output = doctest.DocTestRunner(verbose=False), io.StringIO()
    failed = runner.run(test, out=output.write, clear_globs=False).failed
    names.update(test.globs)
    assert not failed, f"{block.place}\n{output.getvalue()}"


RUNNERS: dict[str, Callable[[Block, pytest.CaptureFixture[str]], None]] = {
    "sh": _shell,
    "python": _python,
    "pycon": _pycon,
    "toml": _toml,
    "yaml": _yaml,
}


@pytest.fixture(autouse=True)
def registries(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a page registers goes with it. (The operators of training are loaded with torch, where a page needs it.)"""
    if "CONTRIBUTING.md" not in request.node.name:
        yield
        return
    from netadapt_onnx.training.ops import registry

    kept = [(place, dict(place)) for place in (RULES, PROVIDERS, registry._FUNCTIONS)]
    yield
    for place, content in kept:
        place.clear()  # type: ignore[attr-defined]
        place.update(content)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=named)
def test_blocks_run(
    page: Path, supplies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(page, False, supplies, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.mark == "slow" for b in blocks(p))], ids=named)
def test_slow_blocks_run_too(
    page: Path, supplies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(page, True, supplies, tmp_path, monkeypatch, capsys)


def _run(
    page: Path,
    slow: bool,
    supplies: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(supplies, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    SESSIONS.pop(page, None)
    for block in blocks(page):
        if block.language != OUTPUT and (not block.mark or (slow and block.mark == "slow")):
            RUNNERS[block.language](block, capsys)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.place)
def test_blocks_are_of_a_kind_that_can_be_judged(block: Block) -> None:
    assert block.language in {OUTPUT, *RUNNERS}, f"{block.place}: the fence names no language"


ALL_COMMANDS = [
    (b.place, line) for b in BLOCKS if b.language == "sh" for line in commands(b) if line.startswith(PROGRAM)
]


@pytest.mark.parametrize(("place", "line"), ALL_COMMANDS, ids=[place for place, _ in ALL_COMMANDS])
def test_commands_parse(place: str, line: str) -> None:
    """Those that are not run too."""
    name, *rest = shlex.split(line, comments=True)[1:]
    command = cli.group.get_command(cli.group.make_context("netadapt-onnx", ["env"]), name)
    assert command is not None, place
    command.make_context(name, rest)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    """To files and headings that are there; to others' pages by https."""
    for target in links(page):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page if not name else page.parent / unquote(name)
        assert file.exists(), f"{named(page)}: {target}"
        assert REPOSITORY in file.resolve().parents, f"{named(page)}: {target} is not in this repository"
        if anchor:
            assert file.suffix == ".md" and anchor in anchors(file), f"{named(page)}: no heading {target}"


def test_make_targets_that_are_spoken_of_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert {"install", "demo", "test", "lint", "clean"} <= targets
    for page in PAGES:
        spoken = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE))
        assert spoken <= targets, f"{named(page)}: {spoken - targets}"


def test_the_picture_is_what_surgery_finds() -> None:
    folder = REPOSITORY / "docs" / "pictures"
    drawing = runpy.run_path(str(folder / "labels.py"))["drawing"]
    assert (folder / "labels.svg").read_text(encoding="utf-8") == drawing(), "run python docs/pictures/labels.py"


def test_the_picture_of_a_result_is_drawn_from_a_run(tmp_path: Path) -> None:
    drawing = runpy.run_path(str(REPOSITORY / "docs" / "pictures" / "result.py"))["drawing"]
    drawn = drawing(finished(tmp_path))
    for text in ("macs", "original", "proposal", "accepted", "result"):
        assert text in drawn
    committed = (REPOSITORY / "docs" / "pictures" / "result.svg").read_text(encoding="utf-8")
    assert "<script" not in committed
    match = re.search(r"top1 \(test\) ([\d.]+) % → ([\d.]+) %", committed)
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert match is not None and all(f"{score}%" in readme for score in match.groups())


@pytest.mark.parametrize("name", REFERENCE["PAGES"])
def test_the_reference_says_what_the_program_says(name: str) -> None:
    page = REPOSITORY / "docs" / name
    assert page.read_text(encoding="utf-8") == REFERENCE["PAGES"][name](), "run make docs"


def test_all_that_is_public_is_in_the_reference_with_an_example() -> None:
    assert {*REFERENCE["NAMES"], "__version__"} == set(netadapt_onnx.__all__)
    sessions = [b for b in BLOCKS if b.page.name == "reference-python.md" and b.language == "pycon"]
    assert len(sessions) == len(REFERENCE["NAMES"]) + 1  # and the imports
