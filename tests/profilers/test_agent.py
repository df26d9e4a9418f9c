"""The one file that runs on devices: what it may use, what it survives, what it says of the device."""

from __future__ import annotations

import ast
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hostile_names import acting
from models import plain
from netadapt_onnx.profilers import agent

FILE = Path(agent.__file__)
TREE = ast.parse(FILE.read_text())
# Later than Python 3.8: found by name, since an old interpreter is rarely at hand.
NEW_METHODS = {"removeprefix", "removesuffix", "is_relative_to", "bit_count", "readlink", "hardlink_to", "pairwise"}


def annotations(tree: ast.AST) -> set[ast.AST]:
    """Every node inside an annotation, which Python 3.8 never evaluates here."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs]
            roots += [node.returns, *(a.annotation for a in arguments)]
        elif isinstance(node, ast.AnnAssign):
            roots.append(node.annotation)
    return {inner for root in roots if root is not None for inner in ast.walk(root)}


def test_python_3_8_reads_it() -> None:
    ast.parse(FILE.read_text(), feature_version=(3, 8))
    skipped = annotations(TREE)
    for node in ast.walk(TREE):
        if isinstance(node, ast.Attribute):
            assert node.attr not in NEW_METHODS, node.lineno
        if isinstance(node, ast.Call):
            assert "strict" not in {k.arg for k in node.keywords}, node.lineno
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node not in skipped:
            assert node.value.id not in {"list", "dict", "tuple", "set", "type"}, node.lineno
        if isinstance(node, ast.With):
            assert all(not isinstance(item.context_expr, ast.Tuple) for item in node.items), node.lineno


def test_it_imports_nothing_but_the_standard_library_numpy_and_onnxruntime() -> None:
    names: set[str] = set()
    for node in ast.walk(TREE):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add((node.module or "").split(".")[0])
    assert names - sys.stdlib_module_names == {"numpy", "onnxruntime"}


def job(models: list[int], **changes: Any) -> dict[str, Any]:
    plan = {"models": models, "reference": -1, "profiled": True, "sessions": 2, "until": "interval", "precision": 0.01}
    return {**plan, "rounds": [20, 20], "seconds": None, "seed": 0, "shard": 1, **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest of eight tiny models in four jobs."""
    models = {}
    for number, width in {-1: 32, **{i: 8 + 4 * i for i in range(8)}}.items():
        data = plain((width, width), size=8).SerializeToString()
        (tmp_path / f"{width}.onnx").write_bytes(data)
        models[str(number)] = {"file": f"{width}.onnx", "sha256": hashlib.sha256(data).hexdigest()}
    np.savez(tmp_path / "inputs.npz", image=np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))
    config = {"session.intra_op.allow_spinning": "0"}
    manifest = {
        "schema": 1,
        "execution": {"provider": "CPUExecutionProvider", "options": {}, "threads": 1, "config": config},
        "inputs": "inputs.npz",
        "models": models,
        "jobs": [job([i, i + 1]) for i in (0, 2, 4, 6)],
        "seconds": 20.0,
        "about": {"mine": "as it was"},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, str(FILE), str(folder / "manifest.json"), str(folder / "results.jsonl"), *options]


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["record"] == kind]


def work(folder: Path, **options: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for _ in agent.work(folder, manifest, folder / "results.jsonl", **options):
        pass


def change(folder: Path, **values: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **values}))


def test_it_appends_a_record_for_every_model(folder: Path) -> None:
    done = subprocess.run(command(folder), capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "8 of 8 measured"
    assert records(folder, "manifest")[0]["manifest"]["about"] == {"mine": "as it was"}
    assert records(folder, "environment")[0]["environment"] == agent.environment()
    result = records(folder, "measured")
    assert [r["model"] for r in result] == list(range(8))
    for one in result:
        assert len(one["ms"]) == len(one["median_ms"]) == len(one["reference_ms"]) == 2
        assert 0 < min(one["ms"]) <= min(one["median_ms"])
        assert one["reference_us"] > 0
        assert sum(one["placement"].values()) == len(one["us"]) == one["placement"]["CPUExecutionProvider"]
    assert records(folder, "end") == [{"record": "end", "stopped": "done"}]


def test_killed_at_any_moment_it_loses_no_finished_record(folder: Path) -> None:
    rng = np.random.default_rng(0)
    kept: list[str] = []
    for _ in range(6):
        running = subprocess.Popen(command(folder), stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.1, 1.0))
        running.send_signal(signal.SIGKILL)
        running.wait()
        file = folder / "results.jsonl"
        lines = (
            [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
            if file.exists()
            else []
        )
        assert lines[: len(kept)] == kept
        kept = lines
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"record":"measured","job":0,"mod')
    subprocess.run(command(folder), check=True, capture_output=True)
    assert (folder / "results.jsonl").read_text().splitlines(keepends=True)[: len(kept)] == kept
    assert sorted(r["model"] for r in records(folder, "measured")) == list(range(8))


def test_a_finished_folder_is_not_measured_again(folder: Path) -> None:
    work(folder)
    before = records(folder, "measured")
    work(folder)
    assert records(folder, "measured") == before


def test_a_shard_measures_its_own_share_and_what_every_shard_does(folder: Path) -> None:
    jobs = [job([0, 1], shard=1), job([2, 3], shard=2), job([4], shard=None, reference=None, profiled=False)]
    change(folder, jobs=jobs)
    work(folder, shard=2)
    assert [r["model"] for r in records(folder, "measured")] == [2, 3, 4]


def test_time_that_is_up_leaves_the_rest_out_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caps: list[float] = []

    def measure(plan: dict[str, Any], models: Any, _: Any, __: Any, seconds: float) -> list[dict[str, Any]]:
        caps.append(round(seconds, 6))
        return [{"record": "measured", "model": m, "seconds": 3.0} for m in plan["models"]]

    monkeypatch.setattr(agent, "measure", measure)
    last = job([0], reference=None, profiled=False, until="each", seconds=0.5)
    change(folder, seconds=8.0, jobs=[*(job([i]) for i in range(4)), last])
    work(folder)
    assert caps == [2.0, round(5 / 3, 6), 1.0, 0.5]
    assert [r["job"] for r in records(folder, "measured")] == [0, 1, 2, 4]
    assert records(folder, "end")[-1]["stopped"] == "time cap of 8 s"


@pytest.mark.parametrize("seconds", [-3.0, 0.0, 1e-9])
def test_a_job_whose_time_is_up_still_gives_times(folder: Path, seconds: float) -> None:
    compared = job([0, 1], seconds=seconds)
    alone = job([2], seconds=seconds, reference=None, profiled=False, until="each", rounds=[30, None])
    ratio = job([3], seconds=seconds, profiled=False, until="ratio", rounds=[30, None])
    change(folder, jobs=[compared, alone, ratio])
    work(folder)
    result = records(folder, "measured")
    assert [r["model"] for r in result] == [0, 1, 2, 3]
    assert all(min(r["median_ms"]) > 0 and r["rounds"] >= 3 for r in result)
    assert records(folder, "end")[-1]["stopped"] == "done"


def test_a_job_that_is_needed_is_done_when_the_time_that_jobs_share_is_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(plan: dict[str, Any], models: Any, *_: Any) -> list[dict[str, Any]]:
        return [{"record": "measured", "model": m, "seconds": 5.0} for m, _ in models if m >= 0]

    monkeypatch.setattr(agent, "measure", measure)
    jobs = [job([i], needed=i < 2) for i in range(4)]
    change(folder, seconds=4.0, jobs=jobs)
    work(folder)
    assert [r["job"] for r in records(folder, "measured")] == [0, 1]
    assert records(folder, "end")[-1]["stopped"] == "time cap of 4 s"
    work(folder)  # another run has as much time again
    assert [r["job"] for r in records(folder, "measured")] == [0, 1, 2]
    work(folder)
    work(folder)
    assert [r["job"] for r in records(folder, "measured")] == [0, 1, 2, 3]


def test_a_model_that_cannot_run_is_told_and_the_others_are_measured(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "bad.onnx").write_bytes(b"no model")
    manifest["models"]["2"] = {"file": "bad.onnx", "sha256": hashlib.sha256(b"no model").hexdigest()}
    change(folder, models=manifest["models"])
    work(folder)
    assert [r["model"] for r in records(folder, "measured")] == [0, 1, 3, 4, 5, 6, 7]
    [failed] = records(folder, "failed")
    assert failed["model"] == 2
    assert "bad.onnx" in failed["error"]
    assert "\n" not in failed["error"]


def test_damaged_files_and_other_results_are_refused_in_one_line(folder: Path) -> None:
    (folder / "8.onnx").write_bytes(b"half of it")
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: 8.onnx is damaged: copy it again\n")
    change(folder, seconds=21.0)
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds results of something else" in done.stderr


def test_what_files_say_is_escaped_on_the_devices_terminal(folder: Path) -> None:
    work(folder)
    file = folder / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1]["environment"]["cpu"] = "\x1b[31mcpu\n::error::\u202e##vso[x]"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cpu: \\x1b[31mcpu\\n::error::\\u202e#\\x23vso[x] there" in done.stderr
    assert done.stderr.count("\n") == 1 and not acting(done.stderr)


def test_results_of_another_device_or_onnxruntime_are_not_gone_on_with(folder: Path) -> None:
    """It says so there, where the results lie, and leaves them as they are."""
    work(folder)
    file = folder / "results.jsonl"
    original = file.read_text()
    for field, other in (("onnxruntime", "0.1"), ("cpu", "another"), ("flags", ["mmx"]), ("governor", "slow")):
        lines = [json.loads(line) for line in original.splitlines()]
        lines[1]["environment"][field] = other
        file.write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
        foreign = file.read_text()
        done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "results.jsonl was begun on another device or onnxruntime" in done.stderr
        assert f"({field}: {other} there" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert file.read_text() == foreign
    lines[1]["environment"] = {**agent.environment(), "kernel": "6.1.0-another", "python": "3.8"}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
    work(folder)  # times compare all the same
    assert sorted(r["model"] for r in records(folder, "measured")) == list(range(8))


def test_what_is_no_manifest_or_no_results_is_refused_and_left_alone(folder: Path) -> None:
    good = (folder / "manifest.json").read_text()
    notes = "my notes\nwithout an end"
    (folder / "results.jsonl").write_text(notes)
    for manifest, message in (
        (good, "results.jsonl, line 1, is damaged"),
        ("{", "manifest.json is no manifest"),
        ("[]", "manifest.json is no manifest"),
        ("{}", "manifest.json is no manifest"),
        (good.replace('"schema": 1', '"schema": 9'), "manifest.json has format 9"),
        (good.replace('"inputs.npz"', '"../inputs.npz"'), "names '../inputs.npz', which is no file beside it"),
        (good.replace('"8.onnx"', '"/etc/passwd"'), "names '/etc/passwd', which is no file beside it"),
    ):
        (folder / "manifest.json").write_text(manifest)
        done = subprocess.run(command(folder), capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert (folder / "results.jsonl").read_text() == notes


def test_one_that_waits_for_another_shows_signs_of_life_and_ends_when_nobody_listens(folder: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    start = [sys.executable, "-c", IMPATIENT, str(FILE.parent), *command(folder)[2:], "--stream"]
    with (folder / "results.jsonl.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert waiting.stdout is not None
        assert waiting.stderr is not None
        assert [waiting.stdout.readline() for _ in range(3)] == [b"\n"] * 3
        waiting.stdout.close()
        assert waiting.wait() == 2
        assert waiting.stderr.read() == b"error: nobody listens any more\n"
        waiting.stderr.close()
    assert not (folder / "results.jsonl").exists()


IMPATIENT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import agent; agent.HEARTBEAT_S = 0.05; sys.exit(agent.main())"
)


def test_it_ends_when_nobody_listens_and_a_second_one_waits_for_it(folder: Path) -> None:
    change(folder, jobs=[job([i], rounds=[200, 400]) for i in range(8)])
    start = [sys.executable, "-c", IMPATIENT, str(FILE.parent), *command(folder)[2:], "--stream"]
    first = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert first.stdout is not None
    assert json.loads(next(line for line in first.stdout if line.strip()))["record"] == "manifest"
    first.stdout.close()
    second = subprocess.run(start, capture_output=True, text=True, check=True)
    assert first.wait(timeout=300) != 0 or len(records(folder, "measured")) == 8
    seen = [json.loads(line) for line in second.stdout.splitlines() if line.strip()]
    assert sorted(r["model"] for r in seen if r["record"] == "measured") == list(range(8))
    assert len(records(folder, "measured")) == 8


def pi(root: Path) -> Path:
    """What a Raspberry Pi 4 shows under / (abridged)."""
    files = {
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
        "CPU part\t: 0xd08\n\nprocessor\t: 1\nFeatures\t: none\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n",
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "proc/meminfo": "MemTotal:        3884360 kB\nMemFree: 1 kB\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1800000\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "54300\n",
        "sys/class/thermal/thermal_zone1/type": "battery\n",
        "sys/class/thermal/thermal_zone1/temp": "99000\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_device_is_described_by_what_its_system_says(tmp_path: Path) -> None:
    result = agent.environment(pi(tmp_path))
    assert result["cpu"] == "Raspberry Pi 4 Model B Rev 1.4 0x41 0xd08"
    assert result["flags"] == ["asimd"]
    assert (result["memory_bytes"], result["governor"], result["frequency_khz"]) == (
        3884360 * 1024,
        "ondemand",
        1800000,
    )
    assert agent.environment(tmp_path / "nothing")["memory_bytes"] is None


def test_throttling_is_what_happens_now_not_what_once_did(tmp_path: Path) -> None:
    cool = agent.throttling(pi(tmp_path))
    (tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled").write_text("50004\n")
    assert agent.throttling(tmp_path) != cool
    assert agent.throttling(tmp_path / "nothing") == agent.throttling(tmp_path / "nothing")


def test_a_hot_device_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    zone = pi(tmp_path) / "sys/class/thermal/thermal_zone0/temp"
    assert agent.wait_until_cool(tmp_path) == 54.3
    slept = []

    def cooling(seconds: float) -> None:
        slept.append(seconds)
        zone.write_text(f"{85000 - 2000 * len(slept)}\n")

    zone.write_text("85000\n")
    assert agent.wait_until_cool(tmp_path, cooling) == 77.0
    assert len(slept) == 4
    zone.write_text("85000\n")
    slept.clear()
    assert agent.wait_until_cool(tmp_path, slept.append) == 85.0
    assert sum(slept) == agent.COOLING_S
    assert agent.temperature_c(tmp_path / "nothing") is None
