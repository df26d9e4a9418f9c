"""The shape of the code: short files and functions, the field's words, no circle of imports.

Which package may import which is written in `pyproject.toml` (`[tool.importlinter]`), how many arguments, branches and
statements a function may have in `[tool.ruff.lint]`; `make lint` checks both.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "netadapt_onnx"
MODULES = sorted(PACKAGE.rglob("*.py"))
OTHERS = [path for name in ("benchmarks", "docs", "examples", "tests") for path in (REPOSITORY / name).rglob("*.py")]
AGENT = PACKAGE / "profilers" / "agent.py"  # devices get one file, so it cannot be several

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Participles say that something happened to a thing, not what the thing is.
PARTICIPLES = """
asked beside found given here judged known left made mended said spent taken taught there told tried wanted whole
"""
# Words that this project once had for what the field has words for.
REPLACED = """
adaptation aim batch_formula bench beside_ms bodies both_ways calm consume contractions disturbed exchanges foresee
forsake free_axes frozen_front gauge growths idioms judge knows_all knows_mirrored ladder landed landing latencygauge
likest measuredgauge mend old_opsets rooms rungs sink spent_ms spoken_of stairs standing subject tablegauge teaching
telling toward wordiest
"""
BANNED = {*PARTICIPLES.split(), *REPLACED.split()}
# Identifiers that a file's format or the command line fixes.
CONTRACT = {
    "here",  # deployed.devices of a result
    "mended",  # inspect --sensitivity
    "tried",  # history.jsonl
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def names_of_hypothesis(path: Path) -> set[str]:
    """What a file imports from hypothesis, which has `given`."""
    imports = [
        node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom) and node.module == "hypothesis"
    ]
    return {alias.name for node in imports for alias in node.names}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def identifiers(path: Path) -> Iterator[tuple[str, int]]:
    """Each name that a file defines or uses, with its line."""
    for node in ast.walk(tree(path)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.Name():
                yield node.id, node.lineno
            case ast.Attribute():
                yield node.attr, node.end_lineno or node.lineno
            case ast.arg() | ast.keyword() if node.arg:
                yield node.arg, node.lineno
            case ast.alias():
                yield from ((part, node.lineno) for part in (node.asname or node.name).split("."))
            case ast.ExceptHandler() if node.name:
                yield node.name, node.lineno


@pytest.mark.parametrize("path", [*MODULES, *sorted(OTHERS)], ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < (670 if path == AGENT else MAX_FILE_LINES)


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(PACKAGE).as_posix()}::{node.name}"
        for path in MODULES
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


def test_what_tests_share_is_on_one_page() -> None:
    tests = REPOSITORY / "tests"
    page = (tests / "README.md").read_text(encoding="utf-8")
    assert [path.stem for path in (tests / "support").glob("*.py") if f"`{path.stem}`" not in page] == []


@pytest.mark.parametrize("path", sorted((REPOSITORY / "tests").rglob("*.py")), ids=lambda p: p.name)
def test_no_test_imports_another(path: Path) -> None:
    imported = [
        name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    ]
    assert not [name for name in imported if name.startswith(("test_", "tests.", "conftest"))]


def test_names_are_the_fields_words() -> None:
    old = [
        f"{path.relative_to(REPOSITORY)}:{line}: {name}"
        for path in [*MODULES, *sorted(OTHERS)]
        for name, line in [*identifiers(path), (path.stem, 1)]
        if name.strip("_").lower() in BANNED and name not in CONTRACT | names_of_hypothesis(path)
    ]
    assert not old, "\n".join(old)


def test_no_module_imports_itself_through_others() -> None:
    imports = grimp.build_graph("netadapt_onnx", cache_dir=None)
    assert not imports.find_modules_directly_imported_by("netadapt_onnx.profilers.agent")
    graph = {module: imports.find_modules_directly_imported_by(module) for module in imports.modules}
    TopologicalSorter(graph).prepare()  # CycleError says which modules
