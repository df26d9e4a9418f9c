"""Runs the official NetAdapt code (github.com/denru01/netadapt, in a folder of the user's) on the 5-layer ConvNet.

Its master starts a worker for every proposal; both run as they are but for `PATCHES`, which today's torch and a
machine without a GPU ask for, made in a copy. CPU seconds are what the master and all workers used, imports included;
the code's loop trains nothing at its end, so they are of the search only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
# File, what is there (a regular expression), what takes its place, and why.
PATCHES = (
    ("master.py", r"torch\.load\(([^()]*)\)", r"torch.load(\1, weights_only=False)", "torch 2.6 loads no modules"),
    ("worker.py", r"torch\.load\(([^()]*)\)", r"torch.load(\1, weights_only=False)", "the same"),
    ("functions.py", r"\.cuda\(\)", "", "there is no GPU"),
    (
        "functions.py",
        r"(kept_filter_idx\[::\w+\]) /",
        r"\1 //",
        "/ of integers has become a float, in earlier versions no index",
    ),
)
# What its scripts for AlexNet and MobileNet give; its parser's own defaults train each proposal for 10 steps only.
SCHEDULE = {"-irr": "0.025", "-rd": "0.96", "-lr": "0.001", "-rt": "FLOPS", "-gp": "0", "-si": "-1"}


def patched_copy(official: Path, copy: Path) -> Path:
    """A copy of the code that runs today, with our network in it. Raises ValueError where it is another version."""
    shutil.copytree(official, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
    for name, pattern, replacement, _ in PATCHES:
        text, count = re.subn(pattern, replacement, (copy / name).read_text(encoding="utf-8"))
        if not count:
            raise ValueError(f"{official / name}: nothing matches {pattern}; is it the official code?")
        (copy / name).write_text(text, encoding="utf-8")
    utils = copy / "network_utils"
    (utils / "__init__.py").write_text("from .network_utils_convnet import convnet\n")  # the others need torchvision
    shutil.copy(FOLDER / "official_network.py", utils / "network_utils_convnet.py")
    return copy


def run_official(
    official: Path, module: Any, data: Path, work: Path, *, budget: float, steps: int, iterations: int
) -> dict[str, Any]:
    """Search with the official code.

    Args:
        official: Its folder.
        module: The trained torch module.
        data: CIFAR-10 as `prepare.py` writes it.
        work: An empty folder.
        budget: The share of multiply-accumulates to reach.
        steps: Training steps a proposal.
        iterations: At most so many.

    Returns:
        CPU and wall seconds, iterations, and the share of multiply-accumulates that is left.

    Raises:
        RuntimeError: The master or a worker failed.
    """
    import torch

    work = work.resolve()  # the code runs in its own folder
    code, run = patched_copy(official, work / "code"), work / "run"
    shutil.rmtree(run, ignore_errors=True)
    model, seconds = work / "model.pth.tar", work / "cpu.jsonl"
    torch.save(module, model)
    seconds.unlink(missing_ok=True)
    command = [sys.executable, "master.py", str(run), "3", "32", "32"]
    command += [word for option in SCHEDULE.items() for word in option]
    command += ["-mi", str(iterations), "-bur", str(budget), "-st", str(steps), "-a", "convnet"]
    command += ["-im", str(model), "-dp", str(data.resolve())]
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "NETADAPT_CPU_FILE": str(seconds.resolve())}
    began = time.monotonic()
    with (work / "master.log").open("w") as log:
        master = subprocess.Popen(command, cwd=code, env=environment, stdout=log, stderr=log)
        try:
            _wait(master, run / "worker")
        finally:
            master.kill()
            master.wait()
    if master.returncode:
        raise RuntimeError(f"the official code failed: {(work / 'master.log').read_text()[-500:]}")
    lines = (run / "master" / "history.txt").read_text().splitlines()[1:]
    resources = [float(line.split(",")[2]) for line in lines]
    return {
        "search_cpu_s": round(sum(map(json.loads, seconds.read_text().splitlines())), 2),
        "search_s": round(time.monotonic() - began, 2),
        "iterations": len(lines) - 1,
        "macs": resources[-1] / resources[0],
        "met": resources[-1] <= budget * resources[0],
    }


def _wait(master: subprocess.Popen[bytes], workers: Path) -> None:
    """Wait for the master's end. It waits for the files of a worker that has failed for ever."""
    while master.poll() is None:
        time.sleep(1)
        for log in workers.glob("*_log.txt"):
            text = log.read_text(errors="replace")
            if "Traceback" in text:
                raise RuntimeError(f"a worker of the official code failed: {text[-500:]}")
