"""Whatever a model, a file or a device calls itself: no stream, format or file of any command acts upon it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gate_fixtures import save
from hostile_names import NAMES, acting, hostile_model
from netadapt_onnx import cli
from netadapt_onnx.common.escape import (
    toml_string,
)

pytestmark = pytest.mark.usefixtures("fixed_training_settings")
# A file's name holds no slash and at most 255 bytes.
FILE = "\n::error::\x1b[31m\u202e##vso[x]FORGED.onnx"
ALL = "".join(NAMES)


def run(capfd: pytest.CaptureFixture[str], *words: object, code: int | None = 0, annotations: bool = False) -> str:
    """Run a command line, with nothing in its streams that acts; what stdout got."""
    returned = cli.run([*map(str, words)])
    out, err = capfd.readouterr()
    assert code is None or returned == code, out + err
    assert not acting(out, annotations=annotations)
    assert not acting(err)
    assert returned != 2 or (err.startswith("error: ") and err.count("\n") == 1), err
    assert "this is a bug" not in err
    return out


def document(capfd: pytest.CaptureFixture[str], *words: object, code: int | None = 0) -> dict[str, object]:
    body: dict[str, object] = json.loads(run(capfd, *words, "--json", code=code))
    return body


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    save(hostile_model(), folder / FILE)
    rng = np.random.default_rng(0)
    name = hostile_model().graph.input[0].name
    arrays = {f"x_{split}.{name}": rng.standard_normal((16, 3, 4, 4)).astype(np.float32) for split in ("train", "val")}
    np.savez(folder / "d.npz", **arrays)
    return folder


@pytest.fixture
def model(folder: Path, workspace: Path) -> Path:
    """The hostile model, under its hostile name, in the folder that the command runs in."""
    for name in (FILE, "d.npz"):
        shutil.copy(folder / name, workspace / name)
    return Path(FILE)


def groups(body: dict[str, object]) -> set[str]:
    listed = body["groups"]
    assert isinstance(listed, list | dict)
    return set(listed) if isinstance(listed, dict) else {group["name"] for group in listed}


def test_inspect(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = run(capfd, "inspect", model)
    assert "\\x3a:error file=x::a" in out and "\\x23#[error]e" in out  # shown, and to be told apart
    assert groups(document(capfd, "inspect", model)) == set(NAMES)
    for name in NAMES[:3]:
        run(capfd, "inspect", model, "--explain", name)
    run(capfd, "inspect", model, "--explain", f"{ALL}?", code=2)


@pytest.mark.parametrize("form", ["dot", "html"])
def test_drawings(form: str, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, "inspect", model, "--graph", f"groups.{form}")
    run(capfd, "diff", model, model, "--graph", f"widths.{form}")
    for name in ("groups", "widths"):
        text = Path(f"{name}.{form}").read_text(encoding="utf-8")
        drawn = text if form == "dot" else text.partition('id="data">')[2].partition("</script>")[0]
        assert "error" in drawn and not acting(drawn)


def test_prune_and_its_plans(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = run(capfd, "prune", model, "--ratio", "0.5", "--verify", "-o", f"small{FILE}")
    word = next(line for line in out.splitlines() if line.startswith("next: "))
    pasted = subprocess.run(["bash", "-c", f"printf '%s\\0' {word}"], capture_output=True, check=True).stdout
    assert f"small{FILE}".encode() in pasted.split(b"\0")
    counts = document(capfd, "prune", model, "--ratio", "0.5")["groups"]
    assert isinstance(counts, dict) and set(counts) == set(NAMES[:-1])
    run(capfd, "inspect", model, "--write-plan", "plan.toml")
    plan = Path("plan.toml").read_text(encoding="utf-8")
    assert not acting(plan) and set(tomllib.loads(plan)["groups"]) == set(NAMES[:-1])
    run(capfd, "prune", model, "--plan", "plan.toml")
    run(capfd, "prune", model, "--plan", f"small{FILE}".removesuffix(".onnx") + ".plan.toml")
    keep = [word for name in NAMES[:-1] for word in ("--keep", f"{name}=4")]
    run(capfd, "prune", model, *keep)
    run(capfd, "prune", model, "--keep", f"{ALL}=3", code=2)


@pytest.mark.parametrize("form", ["text", "json", "github", "junit", "markdown"])
def test_gate(form: str, model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    save(onnx.ModelProto(), Path(f"none{FILE}"))
    run(capfd, "gate", model, "--update-baseline")
    assert not acting(Path("netadapt-baseline.json").read_text())
    save(hostile_model(16), Path(FILE))
    limits = ("--max", "params=10", "--max-increase", "size=0%", "--baseline", "netadapt-baseline.json")
    for files in ([FILE], [FILE, f"none{FILE}"]):
        words = ("gate", *files, *limits, "--format", form, "--output", f"{form}=report", "--overwrite")
        out = run(capfd, *words, code=1 if len(files) == 1 else 2, annotations=form == "github")
        assert not acting(Path("report").read_text(encoding="utf-8"), annotations=form == "github")
        if form == "json":
            body = json.loads(out)["models"]
            assert {each["path"] for each in body} == set(files)
            blamed = {blame["layer"] for each in body for blame in each["blame"]}
            assert blamed and blamed <= {node.name for node in hostile_model().graph.node}
        if form == "junit":
            assert ElementTree.fromstring(out).tag == "testsuites"
        if form == "github":
            assert out.startswith("::error file=")
            assert not acting(Path("summary.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_diff(form: str, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = hostile_model()
    for node in other.graph.node:
        node.name += "!"
    other.metadata_props[0].value += ALL
    other.graph.input[0].type.tensor_type.shape.dim[0].dim_param = ALL
    other.opset_import.append(helper.make_opsetid(ALL, 1))
    save(other, Path("other.onnx"))
    out = run(capfd, "diff", model, "other.onnx", "--format", form)
    if form == "json":
        assert json.loads(out)["metadata"][f"{NAMES[0]}0"] == [NAMES[0], NAMES[0] + ALL]


def test_evaluate_finetune_adapt_restore_and_report(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, "evaluate", model, "--data", "d.npz", "--no-latency")
    out = f"tuned{FILE}"
    run(capfd, "finetune", model, "--data", "d.npz", "-o", out, "--epochs", "1", "--lr", "0.01", "--teacher", model)
    folder = f"run{FILE}"
    quick = (
        "--max-iterations",
        "1",
        "--short-term",
        "1",
        "--final-epochs",
        "1",
        "--step",
        "4",
        "--budget",
        "macs=0.95x",
    )
    run(capfd, "adapt", model, "--data", "d.npz", *quick, "-o", folder, "-v")
    assert groups(document(capfd, "adapt", model, "--data", "d.npz", *quick, "-o", folder, "--resume"))
    run(capfd, "adapt", model, "--data", "d.npz", *quick, "--dry-run")
    run(capfd, "restore", folder, "--iteration", "1", "-o", f"back{FILE}")
    run(capfd, "report", folder, "--overwrite")
    page = Path(folder, "report.html").read_text(encoding="utf-8")
    assert not acting(page) and "<img" not in page and page.count("<svg") >= 2
    for file in Path(folder).rglob("*.json*"):
        assert not acting(file.read_text(encoding="utf-8")), file


def test_profile_and_its_tables(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = f"t{FILE}"
    run(capfd, "profile", model, "--table", table, "--max-time", "1s", "--per-layer", "-v")
    assert not acting(Path(table).read_text(encoding="utf-8"))
    run(capfd, "inspect", model, "--table", table)
    run(capfd, "profile", "bundle", model, "-o", f"b{FILE}")


def test_export_and_env(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = ("import torch", "def f():", "    return torch.nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 8, 8),)")
    Path(f"f{FILE}.py").write_text("\n".join(lines))
    run(capfd, "export", f"f{FILE}.py:f", "-o", f"e{FILE}", "--exporter", "legacy")
    Path(f"f{FILE}.py").write_text(f"def f():\n    raise ValueError({ALL!r})\n")
    run(capfd, "export", f"f{FILE}.py:f", "-o", f"again{FILE}", code=2)
    run(capfd, "env")


def test_scale_by_a_law(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("scale", model, "--target", "params=0.5x", "--method", "uniform", "-o", f"scaled{FILE}")
    run(capfd, *words, code=None)
    run(capfd, "report", f"scaled{FILE}", code=None)


WRONG = {
    "command": (f"x{ALL}",),
    "option": ("inspect", f"--{ALL}"),
    "choice": ("gate", "--format", ALL),
    "number": ("prune", FILE, "--ratio", ALL),
    "output": ("gate", FILE, "--output", ALL),
    "file": ("inspect", f"{ALL[:200].replace('/', '')}"),
    "data": ("evaluate", FILE, "--data", ALL[:200]),
    "shape": ("inspect", FILE, "--shape", f"{ALL}=1x2"),
    "budget": ("prune", FILE, "--budget", ALL),
    "device": ("profile", FILE, "--table", "t.jsonl", "--device", ALL),
    "revision": ("gate", FILE, "--max-increase", "size=1%", "--baseline", f"git:{ALL}"),
    "factory": ("export", f"{ALL[:200]}.py:f", "-o", "e.onnx"),
    "run": ("report", ALL[:200]),
    "results": ("profile", "import", ALL[:200], "--table", "t.jsonl"),
    "provider": ("evaluate", FILE, "--data", "d.npz", "--ep", ALL),
    "config": ("gate", FILE, "--config", "c.toml"),
}


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG)
def test_errors(words: tuple[str, ...], model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text(f"[[gate]]\n{toml_string(ALL)} = {toml_string(ALL)}\n")
    words = tuple(word.replace("\0", "") for word in words)
    run(capfd, *words, code=2)
    assert document(capfd, *words, code=2)["error"]


def test_errors_about_operators_and_of_libraries(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for op, domain in ((ALL, ""), ("Relu", ALL), (ALL, ALL)):
        proto = hostile_model()
        proto.graph.node[1].op_type, proto.graph.node[1].domain = op, domain
        if domain:
            proto.opset_import.append(helper.make_opsetid(domain, 1))
        save(proto, Path(FILE))
        for words in (("inspect",), ("prune", "--ratio", "0.5"), ("gate", "--max", "macs=1"), ("diff", FILE)):
            run(capfd, words[0], FILE, *words[1:], code=None)
    proto = hostile_model()
    proto.graph.initializer[0].dims[0] += 1
    save(proto, Path(FILE))
    run(capfd, "inspect", FILE, code=2)
    proto = hostile_model()
    proto.graph.input[0].type.tensor_type.CopyFrom(
        helper.make_tensor_type_proto(TensorProto.FLOAT, [1, ALL, ALL, 4]).tensor_type
    )
    save(proto, Path(FILE))
    run(capfd, "inspect", FILE, code=2)


@pytest.mark.skipif(os.name == "nt", reason="file names there are characters")
def test_file_names_of_bytes_that_are_no_characters(
    workspace: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "m\udcff\x1b.onnx"
    shutil.copy(model, name)
    for words in (
        ("inspect", name),
        ("prune", name, "--ratio", "0.5"),
        ("gate", name, "--max", "size=1"),
        ("diff", name, name),
    ):
        run(capfd, *words, code=None)
        document(capfd, *words, code=None)


def test_debug_and_warnings_are_escaped(model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "netadapt_onnx", "--debug", "inspect", model, "--explain", ALL.replace("\0", "")],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2 and b"Traceback" in done.stderr
    assert not acting(done.stderr.decode())


@pytest.mark.parametrize(
    "words", [("inspect",), ("gate", "--max", "params=10"), ("diff", "other.onnx")], ids=lambda w: w[0]
)
def test_tables_that_wrap_on_a_terminal(
    words: tuple[str, ...], model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are broken at white space there, so that any part of one may begin a line."""
    save(hostile_model(16), Path("other.onnx"))
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    cli.run([words[0], str(model), *words[1:]])
    out, err = capfd.readouterr()
    painted = re.sub(r"\x1b\[(0|1|31|32|33)m", "", out)
    # A column that is too narrow breaks words anywhere: part of a cell may begin a line, and is no line of ours.
    assert not [act for act in acting(painted) if not act.startswith("FORGED")] and not acting(err)
    assert (painted != out) == (words[0] == "gate")


def test_progress_lines_are_escaped() -> None:
    from rich.console import Console

    from netadapt_onnx.common.progress import Stages, progress_line

    stages = Stages("whole")
    stages.begin(NAMES[1], 3).step(1, NAMES[9] + NAMES[11])
    console = Console(width=100, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(progress_line(stages, console))
    assert not acting(re.sub(r"\x1b\[[\d;]*m", "", captured.get()))
