"""Training reaches no kernel of torch that crashes or gives wrong numbers, with the kernels of any processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "random_networks.py"
# oneDNN takes the kernels of older processors than the one it finds, never those of newer ones. "DEFAULT": all.
INSTRUCTION_SETS = ("DEFAULT", "AVX2")
# Memory as glibc hands it out and takes it back: writes beyond a buffer abort, what is not initialised is no number.
CHECKED = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}


def run_networks(first: int, last: int, instruction_set: str) -> tuple[int, list[str]]:
    """Exit code of a process that trains random networks, and what it said beside where it was."""
    folders = os.pathsep.join([str(PROGRAM.parent), str(PROGRAM.parent.parent)])
    environment = os.environ | CHECKED | {"ONEDNN_MAX_CPU_ISA": instruction_set, "PYTHONPATH": folders}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(first), str(last)],
        env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    reached = [line for line in lines if line.startswith("network")][-1:]
    other_lines = [line for line in lines if not line.startswith("network")]
    return done.returncode, other_lines if done.returncode == 0 else [*other_lines, *reached, done.stderr[-2000:]]


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_random_networks_train_to_the_gradients_of_float64(instruction_set: str) -> None:
    assert run_networks(150, 290, instruction_set) == (0, ["done"])


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", ["DEFAULT", "AVX512_CORE", "AVX2", "AVX", "SSE41"])
def test_many_random_networks_train_to_the_gradients_of_float64(instruction_set: str) -> None:
    assert run_networks(290, 2000, instruction_set) == (0, ["done"])
