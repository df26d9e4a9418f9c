"""The GitHub action, the pre-commit hook, the GitLab job and what `docs/gate.md` says: parsed, and run here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gate_fixtures import git, run, save, small, wide
from github_runner import run_action, shell
from netadapt_onnx import cli
from netadapt_onnx.common import config
from netadapt_onnx.gating.settings import Entry

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples" / "ci"
# The folder in which the examples have a clone of this repository.
CLONE = "netadapt-onnx"
needs_tools = pytest.mark.skipif(not (shutil.which("git") and shutil.which("bash")), reason="git or bash is missing")


@pytest.fixture
def scratch(workspace: Path) -> Path:
    """A repository whose model grew since its first commit, with the example's limits."""
    git(workspace, "init", "-q")
    shutil.copy(EXAMPLES / "netadapt.toml", workspace)
    save(small(), workspace / "models" / "m.onnx")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "one")
    git(workspace, "tag", "base")
    save(wide(), workspace / "models" / "m.onnx")
    git(workspace, "commit", "-qam", "two")
    return workspace


@needs_tools
def test_the_action_judges_and_writes_the_summary(scratch: Path, shims: Path) -> None:
    code, log, summary = run_action(scratch, shims, baseline="git:base", junit="limits.xml")
    assert code == 1, log
    assert log.startswith("::error file=models/m.onnx,title=size increase beyond its limit::")
    assert "conv2" in summary
    assert (scratch / "limits.xml").exists()
    assert run_action(scratch, shims, baseline="git:HEAD")[0] == 0
    assert (
        run_action(scratch, shims, models="models/m.onnx\n", arguments="--max params=12k", baseline="git:HEAD")[0] == 1
    )
    assert run_action(scratch, shims, models="no.onnx")[0] == 2


@needs_tools
def test_the_action_installs_itself_pinned_and_without_torch(scratch: Path, shims: Path) -> None:
    run_action(scratch, shims, baseline="git:HEAD")
    words = (shims / "pip").read_text().split()
    assert words[words.index("-c") + 1] == str(REPOSITORY / "constraints.txt")
    assert words[-1] == str(REPOSITORY)  # no extra: torch comes with [adapt] only
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert not [d for d in project["dependencies"] if "torch" in d]


@needs_tools
def test_what_is_given_to_the_action_is_never_code(scratch: Path, shims: Path) -> None:
    for step in yaml.safe_load((REPOSITORY / "action.yml").read_text())["runs"]["steps"]:
        assert "${{" not in step["run"]
    bad = '"; touch pwned; $(touch pwned) `touch pwned` #'
    for name in ("models", "arguments", "baseline", "junit"):
        assert run_action(scratch, shims, **{"baseline": "git:HEAD", name: bad})[0] in (
            0,
            2,
        )  # a report may be called so
    assert not list(scratch.rglob("pwned"))


def test_the_workflow_asks_for_reading_only() -> None:
    workflow = yaml.safe_load((EXAMPLES / "github.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    inputs = yaml.safe_load((REPOSITORY / "action.yml").read_text())["inputs"]
    (use,) = [step for step in workflow["jobs"]["limits"]["steps"] if "netadapt-onnx" in step["uses"]]
    assert set(use["with"]) <= set(inputs)
    assert (REPOSITORY / Path(use["uses"]).relative_to(CLONE) / "action.yml").is_file()
    (checkout,) = [step for step in workflow["jobs"]["limits"]["steps"] if "checkout" in step["uses"]]
    assert checkout["with"]["submodules"] is True


def test_nothing_that_is_to_be_copied_has_a_placeholder_or_a_release_that_is_not_there() -> None:
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "examples").rglob("*.y*ml")]
    for page in (*pages, REPOSITORY / "action.yml"):
        assert not re.search(r"OWNER/|rev: v\d|netadapt-onnx@v|netadapt-onnx==", page.read_text(encoding="utf-8")), page
    for example in EXAMPLES.glob("*.y*ml"):
        assert "Once it is released: " in example.read_text(), example


def test_the_pre_commit_hook(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pre_commit.clientlib import load_manifest

    (hook,) = load_manifest(str(REPOSITORY / ".pre-commit-hooks.yaml"))
    assert hook["entry"].split()[0] in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    for name in ("models/m.onnx", "models/m.onnx.data", "netadapt.toml", "pyproject.toml", "netadapt-baseline.json"):
        assert re.search(hook["files"], name)
    assert not re.search(hook["files"], "README.md")
    arguments = hook["entry"].split()[1:]
    git(scratch, "checkout", "-q", "base")
    run(capsys, *arguments, "--update-baseline")
    run(capsys, *arguments)
    git(scratch, "checkout", "-q", "-")
    run(capsys, *arguments, code=1)


@needs_tools
def test_pre_commit_runs_the_example(scratch: Path, shims: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The example has the published hook's fields, and holds back a commit as `gate` says."""
    (published,) = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())
    (repository,) = yaml.safe_load((EXAMPLES / "pre-commit.yaml").read_text())["repos"]
    (hook,) = repository["hooks"]
    assert {**published, "language": "system"} == {**hook, "description": published["description"]}
    shutil.copy(EXAMPLES / "pre-commit.yaml", scratch / ".pre-commit-config.yaml")
    git(scratch, "add", "-A")
    environment = {
        "PATH": f"{shims}:{os.environ['PATH']}",
        "PRE_COMMIT_HOME": str(tmp_path_factory.mktemp("pre-commit")),
    }
    command = f"{shlex.quote(sys.executable)} -P -m pre_commit run --all-files"
    refused = shell(command, scratch, **environment)
    assert refused.returncode == 1 and "there is no baseline" in refused.stdout, refused.stdout + refused.stderr
    shell("netadapt-onnx gate --update-baseline && git add -A", scratch, **environment)
    kept = shell(command, scratch, **environment)
    assert kept.returncode == 0 and "Passed" in kept.stdout, kept.stdout + kept.stderr


@needs_tools
def test_the_gitlab_job(scratch: Path, shims: Path) -> None:
    job = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text())["model-limits"]
    (install,) = [line for line in job["before_script"] if line.startswith("pip install")]
    paths = [word for word in install.split() if CLONE in word]
    assert [(REPOSITORY / Path(word).relative_to(CLONE)).exists() for word in paths] == [True, True]
    assert (REPOSITORY / "pyproject.toml").is_file() and job["variables"]["GIT_SUBMODULE_STRATEGY"] == "normal"
    (script,) = job["script"]
    path = f"{shims}:{os.environ['PATH']}"
    done = shell(script, scratch, PATH=path, CI_MERGE_REQUEST_DIFF_BASE_SHA=git(scratch, "rev-parse", "base"))
    assert done.returncode == 1, done.stderr
    assert (scratch / job["artifacts"]["reports"]["junit"]).exists()
    assert all((scratch / path).exists() for path in job["artifacts"]["paths"])


def blocks(language: str) -> list[str]:
    text = (REPOSITORY / "docs" / "gate.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_documentations_configurations_are_valid(tmp_path: Path) -> None:
    read = 0
    for block in blocks("toml"):
        file = tmp_path / ("pyproject.toml" if "tool." in block else "netadapt.toml")
        file.write_text(block)
        assert config.read(file, "gate", tuple[Entry, ...])
        read += 1
    assert read >= 2


@needs_tools
def test_the_documentations_commands_run(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(scratch / "models" / "m.onnx", scratch / "model.onnx")
    save(small(), scratch / "before.onnx")
    git(scratch, "add", "-A")
    git(scratch, "commit", "-qm", "three")
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("netadapt-onnx")]
    assert len(lines) >= 5
    if "main" not in git(scratch, "branch"):
        git(scratch, "branch", "main")
    for line in lines:
        code = cli.run(shlex.split(line)[1:])
        out, err = capsys.readouterr()
        assert code in (0, 1), (line, out, err)


def keys(value: Any) -> set[str]:
    return {field.encode_name for field in value}


def test_the_documentation_names_every_key_of_the_configuration() -> None:
    import msgspec

    text = (REPOSITORY / "docs" / "gate.md").read_text()
    missing = [name for name in keys(msgspec.structs.fields(Entry)) if f"`{name}`" not in text]
    assert not missing
