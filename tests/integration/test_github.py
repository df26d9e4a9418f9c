"""What GitHub reads: workflows parsed and, where that is possible, run here; templates and metadata are complete."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from documentation import REPOSITORY
from gate_fixtures import save, small
from github_runner import run_action
from netadapt_onnx import __version__

FOLDER = REPOSITORY / ".github"
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.yml"))
FORMS = sorted((FOLDER / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def read(path: Path) -> dict[Any, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in read(workflow)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_read_only_and_run_nothing_that_is_not_pinned(path: Path) -> None:
    workflow, text = read(path), path.read_text(encoding="utf-8")
    assert workflow["permissions"] == {"contents": "read"}
    assert not re.search(r"secrets\.|https?://", text)
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        assert not {"permissions", "secrets"} & set(job)
    for action in re.findall(r"uses: (.*)", text):
        assert action == "./" or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    for step in steps(path):
        assert ("uses" in step) != ("run" in step)
        assert "${{" not in step.get("run", "")  # where it would be code
        assert step.get("with", {}).get("persist-credentials", False) is False


def test_the_tests_run_on_every_system_and_version() -> None:
    matrix = read(FOLDER / "workflows" / "ci.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    versions = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r"Python :: 3\.", c)]
    assert matrix["python"] == versions == ["3.11", "3.12", "3.13"]


def test_workflows_call_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    called = {name for path in WORKFLOWS for name in re.findall(r"make ([a-z0-9-]+)", path.read_text())}
    assert {"lint", "test-avx2", "coverage"} <= called <= targets


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is missing")
def test_the_action_does_what_its_own_workflow_expects(workspace: Path, shims: Path) -> None:
    save(small(), workspace / "model.onnx")
    uses = [step for step in steps(FOLDER / "workflows" / "ci.yml") if step.get("uses") == "./"]
    codes = [run_action(workspace, shims, **step["with"])[0] for step in uses]
    assert codes == [1 if step.get("continue-on-error") else 0 for step in uses] == [0, 1]
    assert (workspace / "limits.xml").stat().st_size


def test_the_release_builds_a_wheel_with_the_package_and_a_source_distribution(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    assert (tmp_path / f"netadapt_onnx-{__version__}.tar.gz").exists()
    with zipfile.ZipFile(tmp_path / f"netadapt_onnx-{__version__}-py3-none-any.whl") as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("netadapt_onnx/")}
    package = REPOSITORY / "netadapt_onnx"
    files = {file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert packed == {file.relative_to(REPOSITORY).as_posix() for file in files}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_complete(path: Path) -> None:
    form = read(path)
    assert form["name"] and form["description"]
    fields = form["body"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_a_change_is_asked_for_its_reason_its_test_and_its_pages() -> None:
    text = (FOLDER / "PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("why", "tested", "make test", "CHANGELOG.md", "docs/decisions.md"))


def test_it_can_be_cited_as_this_version() -> None:
    citation = read(REPOSITORY / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["cff-version"], citation["version"], citation["license"]) == ("1.2.0", __version__, "MIT")
    for reference in citation["references"]:
        assert reference["type"] and reference["title"] and reference["authors"] and reference["year"]
