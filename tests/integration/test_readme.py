"""What the documentation says to type is what there is: every block is run, or says why not; links lead somewhere.

Each page's blocks are run in order in one folder, as its reader would.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

import netadapt_onnx
from documentation import REPOSITORY, anchors, blocks, commands, links, outputs, pages, shown
from netadapt_onnx import cli
from netadapt_onnx.profilers.providers import PROVIDERS
from netadapt_onnx.surgery.rules.registry import RULES
from page_runs import PROGRAM, PageSession, form, supply
from recorded_results import read_records, replay
from report_runs import finished

PAGES = pages()
BLOCKS = [block for page in PAGES for block in blocks(page)]
REFERENCE = runpy.run_path(str(REPOSITORY / "docs" / "reference.py"))


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.fixture(scope="session")
def supplies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supplies")
    supply(folder)
    return folder


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
def test_blocks_run_and_print_what_the_page_shows(
    page: Path, supplies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(page, False, supplies, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.mark == "slow" for b in blocks(p))], ids=named)
def test_slow_blocks_run_too(page: Path, supplies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(page, True, supplies, tmp_path, monkeypatch)


def _run(page: Path, slow: bool, supplies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(supplies, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    session, shown_by = PageSession(page), dict(outputs(page))
    for block in blocks(page):
        if block.mark in ("", "file", "slow" if slow else ""):
            printed = session.run(block)
            if block in shown_by and not block.mark:
                output = shown_by[block]
                assert form(output.text) == form(shown(output, printed)), f"{output.place}: run make outputs"


@pytest.mark.parametrize("page", [p for p in PAGES if outputs(p)], ids=named)
def test_measured_outputs_are_what_their_results_look_like(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the letter: results are recorded, and shown by today's program."""
    monkeypatch.chdir(tmp_path)
    records = read_records(page)
    measured = [(block, output) for block, output in outputs(page) if block.mark]
    assert {line for block, _ in measured for line in commands(block)} == set(records), "run docs/outputs.py --measure"
    for block, output in measured:
        printed = "".join(replay(line, records[line]) for line in commands(block))
        assert output.text == shown(output, printed), f"{output.place}: run make outputs"


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
    match = re.search(r"top1 \(test\) ([\d.]+)% → ([\d.]+)%", committed)
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
