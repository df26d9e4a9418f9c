"""The formats of `gate`: valid for their readers, and harmless whatever a model calls itself and its layers."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
import xmlschema

from gate_fixtures import run, save, small, wide
from netadapt_onnx import cli
from netadapt_onnx.gating.formats.escape_names import code, printable, prose

SCHEMA = xmlschema.XMLSchema(str(Path(__file__).resolve().parents[2] / "support" / "junit.xsd"))
FORMATS = ("text", "json", "github", "junit", "markdown")
HOSTILE = "::error::\n::set-output name=a::b\r\x1b[31m##[command]x|`<img src=x>`|![](http://e) @team \u202e<script>&"


def hostile(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Every layer and tensor has a name that a terminal, a runner or a page would act on."""
    names = {out: f"{HOSTILE}{i}" for i, node in enumerate(proto.graph.node) for out in node.output if out != "logits"}
    for i, node in enumerate(proto.graph.node):
        node.name = f"{HOSTILE}{i}"
        for k, name in enumerate(node.input):
            node.input[k] = names.get(name, name)
        for k, name in enumerate(node.output):
            node.output[k] = names.get(name, name)
    return proto


@pytest.fixture
def mixed(workspace: Path) -> Path:
    """One model that keeps its limits, one that does not and has hostile names, one that is none."""
    save(small(), workspace / "good.onnx")
    save(hostile(wide()), workspace / "grown,50%:x.onnx")
    (workspace / "none.onnx").write_text("no model")
    return workspace


ARGUMENTS = ("gate", "*.onnx", "--max", "params=12k", "--max", "size=1MB")


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_gets_what_stdout_gets(form: str, mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = re.compile(r'("seconds": |time=")[\d.]+')
    cli.run([*ARGUMENTS, "--format", form, "--output", f"{form}=report"])
    output = capsys.readouterr().out
    output = re.sub(r"next: netadapt-onnx .*\n", "", output)  # what to run next is for people
    report = (mixed / "report").read_text()
    if form == "text":  # what could not be checked is on stderr already
        report = report.replace(
            "not checked in none.onnx:\n  none.onnx is not an ONNX file, or it is truncated\n\n", ""
        )
    assert seconds.sub("", report) == seconds.sub("", output)


def test_several_reports_at_once(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [word for form in FORMATS for word in ("--output", f"{form}=out.{form}")]
    run(capsys, *ARGUMENTS, *outputs, code=2)
    assert all((mixed / f"out.{form}").stat().st_size for form in FORMATS)
    run(capsys, *ARGUMENTS, *outputs, code=2)  # they exist
    run(capsys, *ARGUMENTS, *outputs, "--overwrite", code=2)


def test_format_json_is_json(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for spelled in (["--format", "json"], ["--format=json"]):
        assert cli.run([*ARGUMENTS, *spelled]) == 2
        assert "error" in json.loads(capsys.readouterr().out)
        assert cli.run(["gate", *spelled]) == 2  # also where nothing could be judged
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


@pytest.mark.parametrize("form", FORMATS)
def test_no_name_acts(form: str, mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.run([*ARGUMENTS, "--format", form])
    out = capsys.readouterr().out
    assert "conv" not in out  # all names are hostile
    assert "\x1b" not in out
    assert "\u202e" not in out
    for line in out.splitlines():
        assert "##[" not in line
        assert not line.strip().startswith("::") or line.startswith("::error file="), line
    if form == "markdown":
        bare = re.sub(r"`[^`\n]*`", "", out)
        assert not re.search(r"<img|<script|!\[|@team|http:", bare)
        widths = {line.count("|") for line in out.splitlines() if line.startswith("|")}
        assert widths == {6, 4}  # no name made a cell


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_the_worst_come_first_in_tables(form: str, mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.run([*ARGUMENTS, "--format", form])
    lines = capsys.readouterr().out.splitlines()
    places = [next(i for i, line in enumerate(lines) if f"{name}.onnx" in line) for name in ("none", "x", "good")]
    assert places == sorted(places)


def test_junit_is_valid_and_counts(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.run([*ARGUMENTS, "--format", "junit"])
    output = capsys.readouterr().out
    SCHEMA.validate(output)
    root = ElementTree.fromstring(output)
    assert {k: root.attrib[k] for k in ("tests", "failures", "errors")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
    }
    failure = root.find(".//failure")
    assert failure is not None
    assert "params 14.7 k, the limit is 12 k" in failure.attrib["message"]
    error = root.find(".//error")
    assert error is not None
    assert error.attrib["type"] == "not-onnx"
    with pytest.raises(xmlschema.XMLSchemaValidationError):  # the schema can fail
        SCHEMA.validate(output.replace("<testcase ", '<testcase file="x" '))


def test_github_annotations(mixed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    summary = mixed / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    cli.run([*ARGUMENTS, "--format", "github"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("::error file=none.onnx,title=not checked::none.onnx")
    assert lines[1].startswith("::error file=grown%2C50%25%3Ax.onnx,title=params beyond its limit::grown,50%25:x.onnx")
    assert "the limit is 12 k; most by " in lines[1]
    assert lines[2:] == ["1 of 3 models exceeds a limit, 1 could not be checked"]
    body = summary.read_text()
    assert body.startswith("before\n### Model limits")
    assert "`good.onnx`" in body
    monkeypatch.setenv("GITHUB_WORKSPACE", str(mixed.parent))  # annotations are placed from the repository's root
    cli.run([*ARGUMENTS, "--format", "github"])
    assert f"::error file={mixed.name}/none.onnx," in capsys.readouterr().out


def test_only_the_worst_ten_are_annotated_and_a_summary_is_cut(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(12):
        proto = small()
        proto.doc_string = "x" * 1000 * i
        save(proto, workspace / f"m{i:02d}.onnx")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(workspace / "summary.md"))
    monkeypatch.setattr("netadapt_onnx.gating.formats.github.MOST_SUMMARY_BYTES", 500)
    cli.run(["gate", "*.onnx", "--max", "size=40kB", "--format", "github"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("::error") for line in lines) == 10
    assert "file=m11.onnx" in lines[0]
    assert lines[10].startswith("2 more are in the step's summary")
    assert (workspace / "summary.md").stat().st_size < 600
    assert "too long" in (workspace / "summary.md").read_text()


def test_colours_are_for_terminals(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(small(), workspace / "m.onnx")
    arguments = ("gate", "m.onnx", "--max", "size=1MB")
    assert "\x1b" not in run(capsys, *arguments)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[32m" in run(capsys, *arguments)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run(capsys, *arguments)


def test_escapes() -> None:
    assert printable("a\nb\x00\u2028c") == "a\\nb\\x00\\u2028c"
    assert printable("x" * 300).endswith("…")
    assert code("a`b|c") == "`a'b¦c`"
    assert code("") == "` `"
    assert prose("<a> [b](c) x: y") == "&#60;a&#62; &#91;b&#93;&#40;c&#41; x: y"
