"""How long `prune` takes and how much memory it needs, as a user runs it: a new process, from the file to the file.

    python benchmarks/surgery_speed.py resnet50.onnx vit_b_16.onnx swin_t.onnx [--ratio 0.5] [--verify] [--runs 3]
                                       [--record]

Each model is pruned in processes of its own, one thread each. `seconds` is the wall clock of the fastest run, start-up
included, `CPU s` its processor time (which other work on the machine changes less); the peak is the largest resident
set, also as a multiple of the model's size. A second table says where the time of one run goes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from result_files import add_record_option, record
from result_tables import surgery_speed

COMMAND = """
import json, resource, sys
from netadapt_onnx.cli import run
code = run(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]), file=sys.stderr)
"""

STAGES = """
import json, sys, time
from pathlib import Path
marks = {}
last = time.perf_counter()
def mark(name):
    global last
    now = time.perf_counter()
    marks[name], last = now - last, now
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.surgery.kept_counts import at_ratio
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import trace
mark("import")
model = load(sys.argv[1]); mark("load")
folded = fold(model.proto, in_place=True); mark("fold")
traced = trace(folded); mark("trace")
cost(folded.proto, folded.shapes); mark("count")
keep = select(traced, at_ratio(traced.prunable, float(sys.argv[3]))); mark("select")
small = resize(traced, keep); mark("resize")
save(small, sys.argv[2]); mark("save")
print(json.dumps(marks))
"""


def child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a new interpreter, one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )


def command_cost(model: Path, ratio: float, verify: bool, runs: int) -> dict[str, Any]:
    """What the whole command takes and what it leaves, the best of some runs."""
    measured = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            more = ["--verify"] if verify else []
            started = time.perf_counter()
            arguments = ["prune", str(model), "--ratio", str(ratio), "-o", f"{folder}/small.onnx", "--json", *more]
            process = child(COMMAND, *arguments)
            seconds = time.perf_counter() - started
            exit_code, cpu_s, peak_bytes = json.loads(process.stderr.splitlines()[-1])
            document = json.loads(process.stdout)
            macs = document["after"]["macs"] / document["before"]["macs"]
            measured.append((seconds, cpu_s, peak_bytes))
    return {
        "size_bytes": model.stat().st_size,
        "seconds": min(m[0] for m in measured),
        "cpu_s": min(m[1] for m in measured),
        "peak_bytes": max(m[2] for m in measured),
        "macs": macs,
        "exit_code": exit_code,
    }


def stages(model: Path, ratio: float) -> dict[str, float]:
    """Seconds of each step, in one run."""
    with tempfile.TemporaryDirectory() as folder:
        seconds: dict[str, float] = json.loads(child(STAGES, str(model), f"{folder}/small.onnx", str(ratio)).stdout)
    return seconds


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    add_record_option(parser)
    arguments = parser.parse_args()
    rows = [
        {
            "model": model.stem,
            **command_cost(model, arguments.ratio, arguments.verify, arguments.runs),
            "stages_s": stages(model, arguments.ratio),
        }
        for model in arguments.models
    ]
    print(surgery_speed(rows))
    if arguments.record:
        record("surgery_speed", rows)


if __name__ == "__main__":
    main()
