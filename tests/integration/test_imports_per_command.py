"""What each command loads of the package, in a fresh interpreter: nothing that its work has no use for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import plain

APPLICATIONS = {"search", "scaling", "gating", "reporting"}
# The packages that a command may not load, by its words; MODEL and DATA stand for files.
FORBIDDEN = {
    "inspect MODEL": {"data", "profilers", "training", *APPLICATIONS},
    "prune MODEL --ratio 0.5": {"data", "profilers", "training", *APPLICATIONS},
    "prune MODEL --budget macs=0.5x": {"data", "profilers", "training", *APPLICATIONS},
    "prune MODEL --ratio 0.5 --data DATA --reconstruct": {"profilers", "training", *APPLICATIONS},
    "evaluate MODEL --data DATA": {"training", "scaling", "gating", "reporting"},
    "time MODEL --max-time 0.1s": {"data", "training", *APPLICATIONS},
    "gate MODEL --max size=1GB": {"graph", "surgery", "training", "search", "scaling", "reporting"},
    "diff MODEL MODEL": {"graph", "surgery", "profilers", "training", "search", "scaling", "reporting"},
    "export nowhere.py:make -o out.onnx": {"surgery", "data", "profilers", "training", *APPLICATIONS},
    "env --json": {"surgery", "data", "training", *APPLICATIONS},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("imports")
    model, data = folder / "model.onnx", folder / "data.npz"
    model.write_bytes(plain().SerializeToString())
    x = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
    np.savez(data, x_train=x, y_train=np.arange(16) % 10, x_val=x, y_val=np.arange(16) % 10)
    return {"MODEL": str(model), "DATA": str(data)}


def loaded_modules(command: str, files: dict[str, str]) -> list[str]:
    """The modules of the package that a command loads, without the package's name."""
    code = (
        "import sys; from netadapt_onnx.cli import run\n"
        "run(sys.argv[1:])\n"
        "print('\\n' + ' '.join(m for m in sys.modules if m.startswith('netadapt_onnx.')), file=sys.stderr)"
    )
    words = [files.get(word, word) for word in command.split()]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return [name.removeprefix("netadapt_onnx.") for name in done.stderr.splitlines()[-1].split()]


@pytest.mark.parametrize("command", FORBIDDEN)
def test_a_command_loads_no_package_that_it_has_no_use_for(command: str, files: dict[str, str]) -> None:
    modules = loaded_modules(command, files)
    assert f"commands.{command.split()[0]}" in modules
    assert not FORBIDDEN[command] & {name.partition(".")[0] for name in modules}


def test_prune_loads_little_beside_the_graph_and_surgery(files: dict[str, str]) -> None:
    modules = loaded_modules("prune MODEL --ratio 0.5", files)
    others = [name for name in modules if name.partition(".")[0] not in ("graph", "surgery")]
    assert len(others) <= 27, others
    assert len(modules) <= 140


def test_adapt_loads_torch_only_where_something_is_trained(files: dict[str, str], tmp_path: Path) -> None:
    """It takes 2 to 3 CPU seconds, a sixth of a quick search on a small network."""
    code = (
        "import sys; import netadapt_onnx\n"
        "model, data, run = sys.argv[1:]\n"
        "netadapt_onnx.adapt(model, data, 'macs=0.6x', run, preset='fast', final_epochs=0)\n"
        "assert 'torch' not in sys.modules\n"
    )
    words = [files["MODEL"], files["DATA"], str(tmp_path / "run")]
    subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
