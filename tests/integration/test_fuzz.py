"""Broken models and documents end in an answer or in one line; `make fuzz` tries 2,000 of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import onnx
import pytest

import fuzzing
import mutants
from fuzz_documents import build_documents
from mutant_sources import sources

COUNT = int(os.environ.get("NETADAPT_MUTANTS", "60"))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "documents"
    build_documents(folder)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="the runner waits with select, which takes no pipes there")
def test_mutants_end_in_an_answer_or_in_one_line(documents: Path, tmp_path: Path) -> None:
    step = 7  # of all kinds of mutants, also where there are few
    outcomes = fuzzing.fuzz(range(0, COUNT * step, step), tmp_path / "fuzz", documents)
    text = fuzzing.summary(outcomes)
    assert not any(outcome.problems for outcome in outcomes), text
    codes = [code for outcome in outcomes for code in outcome.codes.values()]
    assert codes.count(0) > len(codes) / 10 and codes.count(2) > len(codes) / 4, text
    assert {fuzzing.is_model(outcome.number) for outcome in outcomes} == {True, False}


def test_a_mutant_is_the_same_for_the_same_number() -> None:
    first = [mutants.mutant(number) for number in range(100)]
    assert first == [mutants.mutant(number) for number in range(100)]
    assert len(set(first)) > 90


def test_mutants_change_every_kind_of_message() -> None:
    kinds = {message.DESCRIPTOR.name for source in sources() for message in mutants.messages(source)}
    assert {"SparseTensorProto", "FunctionProto", "StringStringEntryProto", "TypeProto"} <= kinds
    for number in range(1500):
        source, data = mutants.model_mutant(number)
        try:
            proto = onnx.ModelProto.FromString(data)
        except Exception:  # protobuf's DecodeError lives in a private module
            continue
        before = {(m.DESCRIPTOR.name, m.SerializeToString()) for m in mutants.messages(source)}
        after = {(m.DESCRIPTOR.name, m.SerializeToString()) for m in mutants.messages(proto)}
        kinds -= {kind for kind, _ in after - before}
        if not kinds:
            break
    assert not kinds


def test_a_process_that_dies_is_the_outcome_of_its_mutant_and_the_next_goes_on(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    if line == '1\\n': os.abort()\n"
        "    print(json.dumps({'number': int(line), 'what': 'model'}), flush=True)\n"
    )
    monkeypatch.setattr(fuzzing, "__file__", str(child))
    (tmp_path / "log").write_text("Fatal Python error: Aborted\n")
    outcomes = fuzzing.fuzz([0, 1, 2], tmp_path, documents)
    assert [bool(outcome.problems) for outcome in outcomes] == [False, True, False]
    assert "the process died (-6)" in outcomes[1].problems[0] and "Aborted" in outcomes[1].problems[0]
    assert "--first 1 --count 1" in (tmp_path / "1" / "report.txt").read_text()
    assert "1 of 3 mutants failed" in fuzzing.summary(outcomes)


def test_a_process_that_hangs_is_ended(documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = tmp_path / "child.py"
    child.write_text("import sys, time\nsys.stdin.readline()\ntime.sleep(600)\n")
    monkeypatch.setattr(fuzzing, "__file__", str(child))
    monkeypatch.setattr(fuzzing, "LIMIT_S", 0.05)
    (tmp_path / "log").write_text("")
    (outcome,) = fuzzing.fuzz([70], tmp_path, documents)
    assert outcome.what == "document" and outcome.problems[0].startswith("no end after 0.05 s")


@pytest.mark.parametrize(
    ("code", "out", "err", "problem"),
    [
        (0, '{"schema":1,"ok":true}', "", ""),
        (2, '{"schema":1,"ok":false,"error":{"code":"not-onnx"}}', "error: no\n", ""),
        (3, "", "", "exit code 3"),
        (2, "", "error: KeyError: 1; this is a bug; --debug shows where\n", "an internal error"),
        (2, "", "error: a\nerror: b\n", "2 lines on stderr with exit code 2"),
        (0, "", "warning\n", "1 lines on stderr with exit code 0"),
        (0, "text", "", "stdout is no JSON"),
        (0, '{"schema":1,"ok":false}', "", "the document does not agree with the exit code"),
        (2, '{"schema":1,"ok":false,"error":{"code":"system"}}', "error: no\n", "a system error"),
    ],
)
def test_what_counts_as_a_failure(code: int, out: str, err: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: object) -> int:
        sys.stdout.write(out)
        sys.stderr.write(err)
        return code

    monkeypatch.setattr("netadapt_onnx.cli.run", run)
    answer = fuzzing.run_and_check(["inspect"], as_json=True)
    assert answer[0] == code and answer[1].startswith(problem) and bool(answer[1]) is bool(problem)
