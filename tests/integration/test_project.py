"""What holds for the project as a whole: the floors of the house, what start-up imports, what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import netadapt_onnx
from models import plain
from netadapt_onnx.cli import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "netadapt_onnx"

# From the ground up. A module imports from its own layer and those below; `training` and `profilers` stand side by
# side and know nothing of each other.
FLOORS = [
    {"errors", "common"},
    {"graph"},
    {"surgery"},
    {"data"},
    {"profilers", "training"},
    {"search"},
    {"scaling"},
    {"gating", "reporting"},
    {"api"},
    {"commands"},
    {"cli", "__init__", "__main__"},
]
LEVEL = {name: i for i, names in enumerate(FLOORS) for name in names}
APART = {"profilers", "training"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The top-level module or package that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms of this package that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "netadapt_onnx" and parts[1:] != ["__version__"]:
                found.add(parts[1] if len(parts) > 1 else "__init__")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    here = room(path)
    assert here in LEVEL, f"{here}: say in FLOORS where it stands"
    for there in imported_rooms(path):
        target = there if there in LEVEL else "__init__"
        assert LEVEL[target] <= LEVEL[here], f"{path} imports upwards: {there}"
        assert not ({here, there} <= APART and here != there), f"{path}: {here} and {there} stand apart"


@pytest.mark.parametrize(
    "path",
    [*modules(), *sorted((REPOSITORY / "benchmarks").glob("*.py")), *sorted((REPOSITORY / "tests").rglob("*.py"))],
    ids=lambda p: str(p.relative_to(REPOSITORY)),
)
def test_files_are_short(path: Path) -> None:
    alone = path == PACKAGE / "profilers" / "agent.py"  # devices get one file, so it cannot be several
    assert len(path.read_text().splitlines()) < (670 if alone else 400)


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules that a command line imports, in a fresh interpreter."""
    code = (
        "import sys; from netadapt_onnx.cli import run\n"
        "code = run(sys.argv[1:])\n"
        "print('\\n' + ' '.join({m.split('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_help_imports_nothing_heavy() -> None:
    heavy = {"numpy", "onnx", "onnxruntime", "torch", "msgspec", "rich", "tabulate", "sklearn", "scipy"}
    for arguments in ([], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
        assert not heavy & imported_by(*arguments), arguments


def test_gate_imports_nothing_heavy_itself(tmp_path: Path) -> None:
    """It reads models in a child, which starts at the same time."""
    (tmp_path / "model.onnx").write_bytes(plain().SerializeToString())
    found = imported_by("gate", str(tmp_path / "model.onnx"), "--max", "size=1GB")
    assert not {"numpy", "onnx", "onnxruntime", "torch", "rich", "sklearn", "scipy"} & found


def test_telemetry_is_off_before_onnxruntime_is_imported() -> None:
    code = "import netadapt_onnx, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_public_names_exist() -> None:
    for name in netadapt_onnx.__all__:
        assert getattr(netadapt_onnx, name) is not None
    assert (PACKAGE / "py.typed").exists()
    with pytest.raises(AttributeError):
        netadapt_onnx.no_such_thing  # noqa: B018


def test_every_dependency_is_pinned_exactly() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(d for name, group in extras.items() if name != "all" for d in group)]
    names = {d.split(">=")[0].split("[")[0].lower().replace("_", "-") for d in wanted}
    assert names <= pinned
    assert set(extras) == {"adapt", "report", "ray", "adb", "tensorboard", "dev", "all"}


LIGHT = """
import sys
from pathlib import Path

for name in ("torch", "onnxscript", "sklearn", "scipy", "threadpoolctl", "loky", "torchmetrics", "PIL", "ray"):
    sys.modules[name] = None  # importing it raises

import numpy as np
import netadapt_onnx as na
from netadapt_onnx.cli import run

folder = Path(sys.argv[1])
x = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
np.savez(folder / "d.npz", x_val=x)
model = folder / "model.onnx"
assert run(["env", "--json"]) == 0
assert run(["inspect", str(model)]) == 0
assert run(["prune", str(model), "--ratio", "0.5", "--verify"]) == 0
np.savez(folder / "t.npz", x_train=x)
by = ["prune", str(model), "--ratio", "0.5", "--data", str(folder / "t.npz"), "--criterion"]
assert run([*by, "activation"]) == 0
assert run([*by, "taylor"]) == 2
na.evaluate(model, folder / "d.npz", time_cap_s=0.2)
na.profile(model, folder / "t.jsonl", models=10, time_cap_s=20, held_out=2)
assert run(["inspect", str(model), "--table", str(folder / "t.jsonl"), "--json"]) == 0
(folder / "f.py").touch()
for command in (["export", f"{folder / 'f.py'}:g", "-o", str(folder / "e.onnx")], ["demo", "-o", str(folder / "demo")]):
    assert run(command) == 2
assert not (folder / "demo").exists()
"""


def test_light_commands_run_without_the_extras(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(plain().SerializeToString())
    done = subprocess.run([sys.executable, "-c", LIGHT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3, done.stderr
    assert all("pip install 'netadapt-onnx[adapt]'" in line for line in lines)
