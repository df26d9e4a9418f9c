"""Baselines: a committed file, another model, a git revision with LFS and external data; latency on one device only."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from gate_fixtures import Kept, document, git, run, save, small, wide
from models import plain
from netadapt_onnx import cli
from netadapt_onnx.gating import baseline as baselines
from netadapt_onnx.gating import check_limits, run_model
from netadapt_onnx.gating.jobs import DeviceJob, Job, TimeJob
from netadapt_onnx.gating.limits import Limit
from netadapt_onnx.gating.records import Interval, TimingResult
from netadapt_onnx.gating.result import Check
from netadapt_onnx.profilers.statistics import signed_rank_interval

T = TypeVar("T")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_baseline_is_written_read_and_compared(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(small(), workspace / "models" / "m.onnx")
    result = document(capsys, "gate", "models/*.onnx", "--update-baseline")
    assert result["baseline"].endswith("netadapt-baseline.json")
    text = (workspace / "netadapt-baseline.json").read_text()
    kept = json.loads(text)["models"]["models/m.onnx"]
    assert kept["params"] == 11274
    assert kept["opset"] == {"ai.onnx": 17}
    assert kept["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert ["conv1", "Conv", 432, 110592] in kept["layers"]
    limits = ("--max-increase", "size=0%", "--max-increase", "params=0", "--max-increase", "macs=0")
    run(capsys, "gate", "models/m.onnx", *limits)  # the default baseline is found
    save(wide(), model)
    assert "+30.8 %" in run(capsys, "gate", "models/m.onnx", *limits, code=1)
    run(capsys, "gate", "models/m.onnx", "--max-increase", "params=30.9%")
    run(capsys, "gate", "models/m.onnx", "--update-baseline")
    run(capsys, "gate", "models/m.onnx", *limits)
    assert (workspace / "netadapt-baseline.json").read_text() != text


def test_a_file_that_grew_although_no_layer_did(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(small(), workspace / "m.onnx")
    run(capsys, "gate", model, "--update-baseline")
    proto = small()
    proto.doc_string = "x" * 10_000
    save(proto, model)
    lines = run(capsys, "gate", model, "--max-increase", "size=2%", code=1)
    assert "no layer has more parameters" in lines
    assert "by  " not in lines


def test_updating_keeps_other_models_and_forgets_those_that_are_gone(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        save(small(), workspace / f"{name}.onnx")
    run(capsys, "gate", "*.onnx", "--update-baseline", "--baseline", "base.json")
    (workspace / "b.onnx").unlink()
    run(capsys, "gate", "a.onnx", "--update-baseline", "--baseline", "base.json")
    assert set(baselines.read(workspace / "base.json")) == {"a.onnx", "c.onnx"}


def test_a_baseline_is_not_written_if_a_model_could_not_be_read(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(small(), workspace / "a.onnx")
    (workspace / "b.onnx").write_text("no model")
    run(capsys, "gate", "*.onnx", "--update-baseline", code=2)
    assert not (workspace / "netadapt-baseline.json").exists()


def test_keys_are_paths_from_the_baseline(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    save(small(), workspace / "models" / "m.onnx")
    (workspace / "ci").mkdir()
    run(capsys, "gate", "models/m.onnx", "--update-baseline", "--baseline", "ci/base.json")
    monkeypatch.chdir(workspace / "ci")
    run(capsys, "gate", "../models/m.onnx", "--baseline", "base.json", "--max-increase", "size=0")


BROKEN = ["", "[]", '{"schema": 1}', '{"schema": 2, "models": {}}', '{"schema": 1, "models": {"m.onnx": {}}}', "\xff"]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_baseline_exits_2_and_is_not_overwritten(
    text: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(small(), workspace / "m.onnx")
    (workspace / "base.json").write_text(text)
    options = ("gate", "m.onnx", "--baseline", "base.json")
    assert "base.json is" in run(capsys, *options, "--max-increase", "size=1%", code=2)
    run(capsys, *options, "--update-baseline", code=2)
    assert (workspace / "base.json").read_text() == text


def test_a_new_model_is_judged_only_where_that_is_allowed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(small(), workspace / "a.onnx")
    run(capsys, "gate", "a.onnx", "--update-baseline")
    save(small(), workspace / "b.onnx")
    options = ("gate", "b.onnx", "--max-increase", "size=2%", "--max", "size=1MB")
    assert "--allow-new" in run(capsys, *options, code=2)
    result = document(capsys, *options, "--allow-new")
    assert [(c["limit"], c["value"], c["ok"]) for c in result["models"][0]["checks"]][-1] == (
        "size increase",
        None,
        True,
    )


# --- latency, by a simulated clock ----------------------------------------------------------------------------------


class Clock(Kept):
    """Answers what would be timed: `ms` of the model, `increase` over the reference in each of several measurements."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self.kept = kept
        self.ms = Interval(10.0, 9.9, 10.1)
        self.increases = [Interval(0.0, -0.01, 0.01)]
        self.device: dict[str, object] = {"cpu": "Pi 4", "threads": 1}
        self.measured = 0

    def ask(self, job: Job, kind: type[T]) -> T:
        if isinstance(job, DeviceJob):
            return self.device  # type: ignore[return-value]
        if not isinstance(job, TimeJob):
            return self.kept.ask(job, kind)
        increase = self.increases[min(self.measured, len(self.increases) - 1)] if job.reference else None
        self.measured += 1
        return TimingResult(self.ms, 20, increase, self.ms if increase else None, self.device)  # type: ignore[return-value]


@pytest.fixture
def clock(workspace: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock(kept)
    monkeypatch.setattr("netadapt_onnx.api.gate.Sandbox", lambda *_: fake)
    save(small(), workspace / "m.onnx")
    save(small(), workspace / "old.onnx")
    return fake


def test_absolute_latency(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    result = document(capsys, "gate", "m.onnx", "--max", "latency=12 ms")
    assert result["models"][0]["checks"][0]["value"] == result["models"][0]["resources"]["latency_ms"] == 10.0
    run(capsys, "gate", "m.onnx", "--max", "latency=9990us", code=1)


def test_a_latency_is_measured_where_nothing_is_simulated(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(plain((8,), size=8), workspace / "m.onnx")
    save(plain((64, 64), size=8), workspace / "slow.onnx")
    options = ("--baseline", "m.onnx", "--max-increase", "latency=50%", "--max", "latency=10s")
    slow = document(capsys, "gate", "slow.onnx", *options, code=1)["models"][0]
    assert slow["checks"][0]["limit"] == "latency increase"
    assert slow["checks"][0]["value"] > 0.5
    assert slow["latency_ms"]["low"] <= slow["resources"]["latency_ms"] <= slow["latency_ms"]["high"]
    assert "other inputs" in run(capsys, "gate", save(small(), workspace / "b.onnx"), *options, code=2)


SLOWER = Interval(0.03, 0.021, 0.04)
SAME = Interval(0.004, -0.006, 0.015)


@pytest.mark.parametrize(
    ("increases", "limit", "code", "measured"),
    [
        ([SAME], "0%", 0, 1),
        ([SLOWER, SLOWER], "2%", 1, 2),
        ([SLOWER], "5%", 0, 1),
        ([SLOWER, SAME], "2%", 0, 2),  # once is chance
    ],
)
def test_a_regression_counts_only_where_the_intervals_part_twice(
    increases: list[Interval], limit: str, code: int, measured: int, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    clock.increases = increases
    lines = run(capsys, "gate", "m.onnx", "--baseline", "old.onnx", "--max-increase", f"latency={limit}", code=code)
    assert clock.measured == measured
    assert code == 0 or "+3 % (+2.1 % to +4 %, 20 fresh sessions of each, in turn)" in lines


def decided(rng: np.random.Generator, slower_by: float, noise: float, limit: float) -> bool:
    """Whether a gate fails whose sessions differ by `noise`: as `run_model` and `examine` decide."""

    def measured() -> Check:
        sessions = rng.normal(1, noise, (2, run_model.SESSIONS))
        ratios = (1 + slower_by) * sessions[0] / sessions[1]
        low, high = signed_rank_interval(ratios, run_model.CONFIDENCE)
        increase = Interval(float(np.median(ratios)) - 1, low - 1, high - 1)
        return check_limits.check_slowdown(Limit("max-increase", "latency", limit), increase, 1.0, "")

    return not measured().ok and not measured().ok


def test_innocent_models_pass_and_a_slower_one_fails() -> None:
    """Sessions of one model differ by some 2% in their medians, by 0.6% in the undisturbed runs that are compared."""
    rng = np.random.default_rng(0)
    assert sum(decided(rng, 0.0, 0.02, 0.0) for _ in range(5000)) <= 1  # even where no growth at all is allowed
    assert sum(decided(rng, 0.03, 0.006, 0.01) for _ in range(500)) >= 495


def test_recorded_latencies_compare_on_their_own_device_only(
    clock: Clock, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ("gate", "m.onnx", "--max-increase", "latency=5%", "--device", "rpi4")
    run(capsys, *record, "--update-baseline")
    kept = json.loads((workspace / "netadapt-baseline.json").read_text())["models"]["m.onnx"]["latency"]
    (one,) = kept.values()
    assert (one["name"], one["median_ms"], one["device"]) == ("rpi4", 10.0, clock.device)
    run(capsys, *record)
    clock.ms = Interval(10.7, 10.4, 11.0)  # 7% more, but the intervals are 3% apart
    run(capsys, *record)
    clock.ms = Interval(11.2, 11.0, 11.4)
    run(capsys, *record, code=1)
    run(capsys, *record[:-2], code=1)  # the name is not needed on the same machine
    clock.device = {"cpu": "EPYC", "threads": 1}
    assert "this machine is not 'rpi4': cpu is EPYC here and Pi 4 there" in run(capsys, *record, code=2)
    assert "no latency of this machine (EPYC), only of rpi4 (Pi 4)" in run(capsys, *record[:-2], code=2)
    # A second device joins the first as long as the model is the same.
    run(capsys, *record[:-1], "server", "--update-baseline")
    assert len(json.loads((workspace / "netadapt-baseline.json").read_text())["models"]["m.onnx"]["latency"]) == 2
    save(wide(), workspace / "m.onnx")
    run(capsys, *record[:-1], "server", "--update-baseline")
    assert len(json.loads((workspace / "netadapt-baseline.json").read_text())["models"]["m.onnx"]["latency"]) == 1


def test_a_device_with_a_table_is_predicted_anywhere(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from netadapt_onnx import profile

    model, grown = save(plain((8, 8)), workspace / "m.onnx"), save(plain((8, 12)), workspace / "grown.onnx")
    profile(model, workspace / "rpi4.jsonl", models=8, time_cap_s=1)
    (workspace / "netadapt.toml").write_text('[devices.rpi4]\ntable = "rpi4.jsonl"\n')
    result = document(capsys, "gate", model, "--max", "latency=1s", "--device", "rpi4")
    predicted = result["models"][0]["checks"][0]["value"]
    assert predicted == pytest.approx(
        document(capsys, "inspect", model, "--table", "rpi4.jsonl")["model"]["latency_ms"]
    )
    options = ("--baseline", model, "--max-increase", "latency=500%", "--device", "rpi4")
    assert "by the table of rpi4" in str(document(capsys, "gate", grown, *options))
    assert "no device 'rpi5'" in run(capsys, "gate", model, "--max", "latency=1s", "--device", "rpi5", code=2)


def test_a_device_that_can_be_reached_is_measured_there(
    clock: Clock, workspace: Path, capsys: Any, monkeypatch: Any
) -> None:
    requests: list[Job] = []
    ask = clock.ask
    monkeypatch.setattr(clock, "ask", lambda job, kind: (requests.append(job), ask(job, kind))[1])
    (workspace / "netadapt.toml").write_text('[devices.rpi4]\naddress = "ssh://pi@rpi4"\n')
    run(capsys, "gate", "m.onnx", "--max", "latency=12ms", "--device", "rpi4")
    run(capsys, "gate", "m.onnx", "--max", "latency=12ms", "--device", "ssh://pi@rpi5")
    run(capsys, "gate", "m.onnx", "--max", "latency=12ms", "--device", "local")
    assert [job.address for job in requests if isinstance(job, TimeJob)] == ["ssh://pi@rpi4", "ssh://pi@rpi5", None]
    (workspace / "netadapt.toml").write_text('[devices.rpi4]\naddress = "ssh://a"\ntable = "b"\n')
    assert "needs a table or an address" in run(
        capsys, "gate", "m.onnx", "--max", "latency=12ms", "--device", "rpi4", code=2
    )


# --- git ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(workspace: Path) -> Path:
    """A model that grows at the third of four commits."""
    git(workspace, "init", "-q")
    for number, proto in enumerate((small(), small(), wide(), wide())):
        proto.doc_string = "x" * number if number != 1 else ""
        save(proto, workspace / "models" / "m.onnx")
        (workspace / "note").write_text(str(number))
        git(workspace, "add", "-A")
        git(workspace, "commit", "-qm", f"c{number}")
        git(workspace, "tag", f"c{number}")
    return workspace


@needs_git
@pytest.mark.parametrize("form", ["text", "json", "github", "junit", "markdown"])
def test_a_history_fails_exactly_at_the_commit_that_grew_the_model(
    form: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = []
    for number in (1, 2, 3):
        git(repository, "checkout", "-q", f"c{number}")
        options = ("--baseline", f"git:c{number - 1}", "--max-increase", "size=2%", "--max-increase", "macs=2%")
        codes.append(cli.run(["gate", "models/m.onnx", *options, "--format", form]))
        lines, err = capsys.readouterr()
        assert err == ""
        assert ("conv2" in lines) == (number == 2)
        if form == "json":
            assert json.loads(lines)["ok"] is (number != 2)
        elif form == "junit":
            assert ElementTree.fromstring(lines).attrib["failures"] == ("2" if number == 2 else "0")
        elif form == "github":
            assert lines.count("::error file=models/m.onnx") == (2 if number == 2 else 0)
    assert codes == [0, 1, 0]


@needs_git
def test_what_git_cannot_give_is_said(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def gate(revision: str, model: str = "models/m.onnx") -> str:
        return run(capsys, "gate", model, "--baseline", f"git:{revision}", "--max-increase", "size=2%", code=2)

    assert "no revision 'nope'" in gate("nope")
    assert "no revision '--all'" in gate("--all")
    save(small(), repository / "models" / "new.onnx")
    assert "--allow-new" in gate("c3", "models/new.onnx")
    (repository / "models" / "link.onnx").symlink_to("m.onnx")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "link")
    assert "is a link" in gate("HEAD", "models/link.onnx")


@needs_git
def test_git_lfs_pointers_are_followed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = small().SerializeToString()
    oid = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n"
    (repository / "models" / "m.onnx").write_text(pointer)
    git(repository, "commit", "-qam", "lfs")
    git(repository, "tag", "lfs")
    options = ("gate", "models/m.onnx", "--baseline", "git:lfs", "--max-increase", "size=2%")
    assert "is a Git LFS pointer" in run(capsys, *options, code=2)  # not pulled here
    save(small(), repository / "models" / "m.onnx")
    assert "git lfs fetch origin" in run(capsys, *options, code=2)  # its object is missing
    stored = repository / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    stored.parent.mkdir(parents=True)
    stored.write_bytes(data)
    run(capsys, *options)
    save(wide(), repository / "models" / "m.onnx")
    run(capsys, *options, code=1)
    stored.write_bytes(data[:-1])
    assert "damaged" in run(capsys, *options, code=2)


@needs_git
def test_external_data_come_from_the_revision_too(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(workspace, "init", "-q")

    def store(proto: onnx.ModelProto) -> None:
        (workspace / "w.bin").unlink(missing_ok=True)
        onnx.save_model(
            proto, str(workspace / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0
        )

    store(small())
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "one")
    store(wide())
    result = document(capsys, "gate", "m.onnx", "--baseline", "git:HEAD", "--max-increase", "size=2%", code=1)
    check = result["models"][0]["checks"][0]
    assert check["baseline"] == sum(
        len(subprocess.run(["git", "show", f"HEAD:./{n}"], cwd=workspace, capture_output=True, check=True).stdout)
        for n in ("m.onnx", "w.bin")
    )
    git(workspace, "rm", "-q", "--cached", "w.bin")
    git(workspace, "commit", "-qm", "two")
    assert "lacks its external data 'w.bin'" in run(
        capsys, "gate", "m.onnx", "--baseline", "git:HEAD", "--max-increase", "size=2%", code=2
    )


@needs_git
@pytest.mark.parametrize("location", [".env", "../w.bin", "link"])
def test_data_that_a_model_may_not_name_do_not_come_from_a_revision(
    location: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(workspace, "init", "-q")
    proto = small()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    (workspace / ".env").write_bytes(b"\0" * 4 * 432)
    (workspace / "link").symlink_to(".env")
    save(proto, workspace / "m.onnx")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "one")
    save(small(), workspace / "m.onnx")
    result = run(capsys, "gate", "m.onnx", "--baseline", "git:HEAD", "--max-increase", "size=2%", code=2)
    assert location in result
    assert re.search("hidden file or folder|outside the model's folder|is a link", result)
