"""The documents that commands read back, real ones of a small model, for `fuzzing.py` to break."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import models
from netadapt_onnx import cli
from netadapt_onnx.api.profile import bundle

ADAPT = ("adapt", "model.onnx", "--data", "data.npz", "--budget", "macs=0.7x", "--step", "2")
ADAPT += ("--init-reduction-ratio", "0.1", "--final-epochs", "0")
DRY_RUN = (
    "adapt",
    "model.onnx",
    "--data",
    "data.npz",
    "--budget",
    "latency=0.7x",
    "--step",
    "2",
    "--dry-run",
    "-o",
    "dry",
)


@dataclass(frozen=True)
class Document:
    """Files by a pattern, the commands that read them (FILE is its path), and what else is then not there."""

    pattern: str
    commands: tuple[tuple[str, ...], ...]
    without: tuple[str, ...] = ("run", "unfinished", "netadapt.toml")


IMPORT = ("profile", "import", "FILE", "--table", "made.jsonl", "--overwrite")
BASELINE = ("gate", "model.onnx", "--baseline", "FILE", "--max-increase", "size=2%")
CONFIGURED = ("gate", "--config", "netadapt.toml")
FINISHED = (
    ("report", "run", "-o", "report.html", "--overwrite"),
    ("restore", "run", "--iteration", "1", "-o", "restored.onnx", "--overwrite"),
    (*ADAPT, "-o", "run", "--resume"),
)
UNFINISHED = ((*ADAPT, "-o", "unfinished", "--resume", "--max-iterations", "2"),)
DOCUMENTS = (
    Document("results.jsonl", (IMPORT,)),
    Document("table.jsonl", (("inspect", "model.onnx", "--table", "FILE"), IMPORT)),
    Document("table.jsonl", ((*DRY_RUN, "--table", "FILE"),)),
    Document("baseline.json", (BASELINE, (*BASELINE, "--update-baseline"))),
    Document("plan.toml", (("prune", "model.onnx", "--plan", "FILE", "--verify"),)),
    Document("widths.csv", (("scale", "--fit", "FILE"),)),
    Document("data.npz", (("evaluate", "model.onnx", "--data", "FILE"),)),
    Document("netadapt.toml", (CONFIGURED,), without=("run", "unfinished")),
    Document("run/*.json*", FINISHED, without=("unfinished", "netadapt.toml")),
    Document("run/iterations/*/*.*", FINISHED, without=("unfinished", "netadapt.toml")),
    Document("unfinished/*.json*", UNFINISHED, without=("run", "netadapt.toml")),
    Document("unfinished/iterations/*/*.*", UNFINISHED, without=("run", "netadapt.toml")),
)  # fmt: skip


def build_documents(folder: Path) -> None:
    """Write every document into a folder, by the commands that write them."""
    making = folder.with_name(f".{folder.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    with contextlib.chdir(making):
        Path("model.onnx").write_bytes(models.residual(8, size=8).SerializeToString())
        rng = np.random.default_rng(0)
        arrays: dict[str, np.ndarray] = {}
        for split, count in (("train", 24), ("val", 16)):
            arrays[f"x_{split}"] = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
            arrays[f"y_{split}"] = rng.integers(0, 10, count)
        np.savez("data.npz", **arrays)
        bundle("model.onnx", "b.zip", models=3, time_cap_s=1.0)
        with zipfile.ZipFile("b.zip") as packed:
            packed.extractall()
        subprocess.run(
            ["sh", "b/run.sh"], env={**os.environ, "PYTHON": sys.executable}, check=True, capture_output=True
        )
        Path("b/results.jsonl").rename("results.jsonl")
        _run("profile import results.jsonl --table table.jsonl")
        _run("gate model.onnx --max size=1MB --baseline baseline.json --update-baseline")
        _run("prune model.onnx --ratio 0.5 -o small.onnx")
        Path("small.plan.toml").rename("plan.toml")
        Path("widths.csv").write_text(
            "a,b,params\n" + "".join(f"{8 * k},{16 * k},{900 * k * k}\n" for k in range(1, 9))
        )
        Path("netadapt.toml").write_text(
            '[gate]\nmodels = ["model.onnx"]\nmax = { size = "1MB", macs = "10M" }\nbaseline = "baseline.json"\n'
            'max-increase = { size = "2%" }\n'
        )
        _run(" ".join([*ADAPT, "-o", "run"]))
        _run(" ".join([*ADAPT, "-o", "unfinished", "--max-iterations", "1"]), codes=(0, 1))
    making.rename(folder)


def _run(command: str, codes: tuple[int, ...] = (0,)) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(command.split())
    assert code in codes, f"{command}: {out.getvalue()}{err.getvalue()}"
