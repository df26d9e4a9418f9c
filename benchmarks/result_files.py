"""Results of benchmarks as files: benchmarks/results/NAME.json, with the machine that they were measured on.

A benchmark that is run with `--record` writes its file; `make docs` makes the tables of the pages in docs/ from the
files (`result_tables.py` says how), and a test fails where a page shows other numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"
PACKAGES = ("numpy", "onnx", "onnxruntime", "torch")

Row = Mapping[str, Any]


def add_record_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be asked to keep its results."""
    parser.add_argument("--record", action="store_true", help="write the results to benchmarks/results/, for the docs")


def record(name: str, rows: Sequence[Row]) -> Path:
    """Write a benchmark's rows with the options of this process, the date and the machine."""
    document = {
        "benchmark": f"benchmarks/{Path(sys.argv[0]).name}",
        "options": " ".join(word for word in sys.argv[1:] if word != "--record"),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "rows": list(rows),
    }
    return write(name, document)


def write(name: str, document: Mapping[str, Any]) -> Path:
    """Write a file of results, a row a line, so that changes can be read."""
    rows = document["rows"]
    head = json.dumps({**document, "rows": []}, indent=1, ensure_ascii=False)
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{name}.json"
    file.write_text(head.replace('"rows": []', f'"rows": [\n{lines}\n ]') + "\n", encoding="utf-8")
    return file


def read(name: str) -> dict[str, Any]:
    """The document of a file of results."""
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return document


def machine() -> dict[str, Any]:
    """The fingerprint of this machine, as latency tables have it, with the versions of Python and packages."""
    from netadapt_onnx.profilers.execution import CPU, fingerprint

    return {
        "device": dict(fingerprint(CPU)),
        "processor": fingerprint(CPU)["cpu"],
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES if _version(name)},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
