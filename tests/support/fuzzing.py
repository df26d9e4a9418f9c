"""Fuzz the command line: broken models and documents end in an answer or in one line, whatever is wrong with them.

`python tests/support/fuzzing.py --count 2000` (`make fuzz`) tries mutants 0 to 1999; `--first N --count 1` repeats one.
Mutants run in a process of their own, many in each; one that dies or hangs is what its mutant did, and the next goes on
in another. A mutant that fails is left in `--folder`, with what it did and how to repeat it.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import document_mutants
import mutants
from fuzz_documents import DOCUMENTS, build_documents

REPOSITORY = Path(__file__).resolve().parents[2]
# A net only: work on a file of a kilobyte is bounded, and takes a fraction of a second.
LIMIT_S = 120.0
MEMORY_BYTES = 12 << 30
# Of a hundred mutants so many are models.
MODELS_OF_100 = 70


@dataclass
class Outcome:
    """What became of one mutant: the exit code of each command, and what is wrong with how it ended."""

    number: int
    what: str
    codes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def is_model(number: int) -> bool:
    """Whether a mutant is a model; else it is a document."""
    return number % 100 < MODELS_OF_100


# -- in the process that runs commands --------------------------------------------------------------------------------


def run_and_check(arguments: Sequence[str], *, as_json: bool) -> tuple[int, str]:
    """Run one command line here; its exit code, and what is wrong with how it ended ("" if nothing is)."""
    from netadapt_onnx import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([*arguments, *(["--json"] if as_json else [])])
    output, complaints = out.getvalue(), err.getvalue()
    problem = ""
    if code not in (0, 1, 2):
        problem = f"exit code {code}"
    elif "this is a bug" in output + complaints:
        problem = "an internal error"
    elif "Traceback" in output + complaints:
        problem = "a traceback"
    elif len(complaints.splitlines()) != (code == 2):
        problem = f"{len(complaints.splitlines())} lines on stderr with exit code {code}"
    elif as_json:
        problem = _problem_of_document(code, output)
    return code, f"{problem}: {complaints.strip()[:400] or output[:400]}" if problem else ""


def _problem_of_document(code: int, text: str) -> str:
    try:
        document = json.loads(text)
    except ValueError:
        return "stdout is no JSON"
    if document.get("schema") != 1 or document.get("ok") is not (code == 0) or ("error" in document) != (code == 2):
        return "the document does not agree with the exit code"
    return "a system error" if document.get("error", {}).get("code") == "system" else ""


def try_model(number: int, scratch: Path, outcome: Outcome) -> None:
    """Every command that reads models, on a mutant of one."""
    source, data = mutants.model_mutant(number)
    model, original, samples = scratch / "m.onnx", scratch / "original.onnx", scratch / "d.npz"
    model.write_bytes(data)
    original.write_bytes(source.SerializeToString())
    _samples_for(source, samples)
    commands = {
        "inspect": ["inspect", str(model)],
        "prune": ["prune", str(model), "--ratio", "0.5", "--verify", "-o", str(scratch / "o.onnx"), "--overwrite"],
        "diff": ["diff", *map(str, (original, model)[:: 1 if number % 2 else -1])],
        "evaluate": ["evaluate", str(model), "--data", str(samples)],
        "gate": ["gate", str(model), "--max", "size=1MB", "--max", "macs=1G"],
    }
    for name, command in commands.items():
        outcome.codes[name], problem = run_and_check(command, as_json=number % 3 > 0)
        if problem:
            outcome.problems.append(f"{name}: {problem}")


def _samples_for(source: Any, file: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    constants = {tensor.name for tensor in source.graph.initializer}
    arrays = {}
    for value in source.graph.input:
        if value.name not in constants:
            shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
            arrays[f"x_val.{value.name}"] = rng.standard_normal((2, *shape[1:])).astype(np.float32)
    np.savez(file, **arrays)


def try_document(number: int, documents: Path, scratch: Path, outcome: Outcome) -> None:
    """The commands that read a document, on a mutant of it among the files that belong with it."""
    rng = random.Random(number)
    document = rng.choice(DOCUMENTS)
    place = scratch / "documents"
    shutil.copytree(documents, place, ignore=shutil.ignore_patterns(*document.without))
    file = rng.choice(sorted(place.glob(document.pattern)))
    file.write_bytes(document_mutants.mutant_of(file, rng))
    outcome.what = str(file.relative_to(place))
    commands = document.commands if number % 2 else document.commands[::-1]
    with contextlib.chdir(place):
        for command in commands:
            words = [word.replace("FILE", outcome.what) for word in command]
            code, problem = run_and_check(words, as_json=number % 3 > 0)
            outcome.codes[words[0]] = code
            if problem:
                outcome.problems.append(f"{' '.join(words)}: {problem}")


def serve(documents: Path, scratch: Path) -> None:
    """Try the mutants whose numbers come in; say what became of each."""
    answers = os.fdopen(os.dup(1), "w")
    log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)  # what native code prints
    os.dup2(log, 2)
    faulthandler.enable(2)
    _limit_memory()
    with one_reader():
        for line in sys.stdin:
            number = int(line)
            outcome = Outcome(number, "model")
            start = time.monotonic()
            place = scratch / str(number)
            place.mkdir()
            if is_model(number):
                try_model(number, place, outcome)
            else:
                try_document(number, documents, place, outcome)
            outcome.seconds = time.monotonic() - start
            if not outcome.problems:
                shutil.rmtree(place)
            answers.write(json.dumps(vars(outcome)) + "\n")
            answers.flush()


@contextlib.contextmanager
def one_reader() -> Iterator[None]:
    """`gate` and `diff` read all models in one process, which is a real one, instead of one each."""
    import logging
    import warnings

    import gate_fixtures
    from netadapt_onnx.api import diff, gate

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    reader = gate_fixtures.Kept(LIMIT_S / 2)
    for module in (gate, diff):
        module.Sandbox = lambda *_: reader  # type: ignore[attr-defined]
    try:
        yield
    finally:
        reader._end()


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))  # not AS, of which V8 reserves terabytes


# -- in the process that watches --------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    """This repository's package, whatever else is installed, one thread, and no telemetry."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}


class Runner:
    """A process that tries mutants; started again when it dies or hangs."""

    def __init__(self, documents: Path, scratch: Path) -> None:
        self._documents, self._scratch = documents, scratch
        self._process: subprocess.Popen[str] | None = None

    def run(self, number: int) -> Outcome:
        """One mutant; a process that dies or hangs is its outcome."""
        if self._process is None:
            command = [sys.executable, __file__, "--serve", str(self._documents), str(self._scratch)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()
            )
        process, start = self._process, time.monotonic()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
        readable, _, _ = select.select([process.stdout], [], [], LIMIT_S)
        line = process.stdout.readline() if readable else ""
        if line:
            return Outcome(**json.loads(line))
        code = self.end(kill=not readable)
        how = f"no end after {LIMIT_S:g} s" if not readable else f"the process died ({code})"
        log = (self._scratch / "log").read_text(errors="replace")[-1500:]
        seconds = time.monotonic() - start
        return Outcome(number, "model" if is_model(number) else "document", {}, [f"{how}\n{log}"], seconds)

    def end(self, *, kill: bool = False) -> int:
        """End the process; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None and process.stdout is not None
        if kill:
            process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        code = process.wait()
        process.stdout.close()
        return code


def fuzz(numbers: Sequence[int], folder: Path, documents: Path) -> list[Outcome]:
    """Try mutants; files of those that fail stay in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    runner = Runner(documents, folder)
    outcomes = []
    try:
        for number in numbers:
            shutil.rmtree(folder / str(number), ignore_errors=True)
            outcome = runner.run(number)
            outcomes.append(outcome)
            if outcome.problems:
                sys.stderr.write(f"mutant {number} failed: {outcome.problems[0].splitlines()[0][:200]}\n")
                report = [*outcome.problems, f"again: python tests/support/fuzzing.py --first {number} --count 1"]
                (folder / str(number)).mkdir(exist_ok=True)
                (folder / str(number) / "report.txt").write_text("\n".join(report) + "\n")
    finally:
        runner.end()
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many mutants ended how, by command, and which failed."""
    codes = Counter((name, code) for outcome in outcomes for name, code in outcome.codes.items())
    names = sorted({name for name, _ in codes})
    lines = [f"{name:10} " + "  ".join(f"exit {c}: {codes[name, c]:5}" for c in (0, 1, 2)) for name in names]
    failed = [outcome for outcome in outcomes if outcome.problems]
    lines += [f"mutant {o.number} ({o.what}): {problem.splitlines()[0]}" for o in failed for problem in o.problems]
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    lines.append(f"slowest: mutant {slowest.number} ({slowest.what}), {slowest.seconds:.1f} s")
    return "\n".join([*lines, f"{len(failed)} of {len(outcomes)} mutants failed"])


def main() -> int:
    """The command line of this file."""
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), Path(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build/fuzz")
    parser.add_argument("--only", choices=["models", "documents"])
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.count)
    chosen = [n for n in numbers if options.only is None or is_model(n) == (options.only == "models")]
    folder = options.folder.resolve()
    documents = folder / "documents"
    if not documents.is_dir():
        build_documents(documents)
    outcomes = fuzz(chosen, folder, documents)
    sys.stdout.write(summary(outcomes) + "\n")
    return int(any(outcome.problems for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
