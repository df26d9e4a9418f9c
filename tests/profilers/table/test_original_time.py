"""What commands call the latency of a file is that of the file as given; a table knows it beside the normalised one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

import netadapt_onnx
from drifting_device import NormalisingDevice, listed
from models import overridable, plain
from netadapt_onnx import cli
from netadapt_onnx.api import evaluate
from netadapt_onnx.api.adapt import adapt
from netadapt_onnx.api.inspect import RunsOtherwise
from netadapt_onnx.api.profile import bundle, import_results
from netadapt_onnx.commands import profile as profile_command
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating import run_model
from netadapt_onnx.gating.jobs import PredictJob, TimeJob
from netadapt_onnx.graph.model import load
from netadapt_onnx.profilers import statistics
from netadapt_onnx.profilers.bundle import write as bundling
from netadapt_onnx.profilers.records import Manifest
from netadapt_onnx.profilers.statistics import Ratio, Timing, ratio_of_pairs
from netadapt_onnx.profilers.table import original_time
from netadapt_onnx.profilers.table.file import OriginalTime, Reference, encode, read
from netadapt_onnx.profilers.table.merge import merge_tables
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.scaling import latency_target
from search_cases import UNTRAINED, overridable_task
from table_runs import run as table_of_a_run

IN_TURN = ratio_of_pairs((10.0, 10.1, 9.9, 10.0, 10.0, 10.0), (25.0, 25.0, 25.0, 25.2, 24.8, 25.0))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose initializers are listed among its inputs, and its table, which does not know the file's own time."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "model.onnx").write_bytes(overridable(plain((8, 12, 16), size=8, classes=3)).SerializeToString())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(original_time, "ratio", _refused)
        _say_nothing_of_other_processes(patch)
        profiled = netadapt_onnx.profile(folder / "model.onnx", folder / "t.jsonl", models=8, time_cap_s=2)
    assert profiled.as_given is None
    assert profiled.notes == ("the file as given: too old; its normalised form stands for it",)
    return folder


def _refused(*_: Any, **__: Any) -> Ratio:
    raise NetadaptError("too old", code="unloadable")


@pytest.fixture
def task(tmp_path: Path) -> tuple[Path, Path]:
    return overridable_task(tmp_path)


@pytest.fixture
def place(tables: Path, tmp_path: Path) -> Path:
    for name in ("model.onnx", "t.jsonl"):
        shutil.copy(tables / name, tmp_path / name)
    return tmp_path


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    _say_nothing_of_other_processes(monkeypatch)


def _say_nothing_of_other_processes(patch: pytest.MonkeyPatch) -> None:
    """Whatever else runs on this machine is another subject's."""
    patch.setattr(statistics, "SPREAD", float("inf"))
    patch.setattr(statistics, "CROWDED", float("inf"))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """Replaces the clock; which of the two models of a comparison had its initializers listed."""
    seen: list[tuple[bool, bool]] = []

    def ratio(model: onnx.ModelProto, reference: onnx.ModelProto, *_: Any, **__: Any) -> Ratio:
        seen.append((listed(model), listed(reference)))
        return IN_TURN

    monkeypatch.setattr(original_time, "ratio", ratio)
    return seen


def test_a_profile_says_what_the_file_takes_and_what_its_normalised_form_takes(
    place: Path, compared: list[tuple[bool, bool]]
) -> None:
    before = Table.load(place / "t.jsonl", load(place / "model.onnx").proto)
    assert before.reference.as_given is None  # as tables were before: they load, and are completed
    profiled = netadapt_onnx.profile(place / "model.onnx", place / "t.jsonl", models=8)
    assert compared == [(False, True)]
    output = profile_command._text(profiled, place / "model.onnx", [], "next: ...")
    assert "model.onnx as given takes 25 ms" in output
    assert "0.400x, measured in turn; `netadapt-onnx prune" in output and "model.onnx --ratio 0" in output
    assert profiled.as_given is not None
    assert profiled.as_given.latency_ms.median == 25.0
    assert profiled.as_given.normalised_ratio == IN_TURN.median == pytest.approx(0.4, rel=0.01)
    assert profiled.latency_ms.median == before.latency_ms.median_ms
    again = netadapt_onnx.profile(place / "model.onnx", place / "t.jsonl", models=8)
    assert again.as_given == profiled.as_given
    assert len(compared) == 1


def test_a_file_that_a_runtime_sees_alike_has_no_time_of_its_own(
    place: Path, compared: list[tuple[bool, bool]]
) -> None:
    (place / "plain.onnx").write_bytes(plain((8, 12, 16), size=8, classes=3).SerializeToString())
    profiled = netadapt_onnx.profile(place / "plain.onnx", place / "t.jsonl", models=8)
    assert (profiled.as_given, profiled.notes, compared) == (None, (), [])


def test_predictions_of_a_file_are_of_the_file_as_given(
    place: Path, compared: list[tuple[bool, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inspect", str(place / "model.onnx"), "--table", str(place / "t.jsonl")]
    unknown = netadapt_onnx.inspect(place / "model.onnx", table=place / "t.jsonl")
    assert isinstance(unknown, RunsOtherwise)
    assert "which the table does not know" in unknown.notes[0]
    netadapt_onnx.profile(place / "model.onnx", place / "t.jsonl", models=8)
    outcome = netadapt_onnx.inspect(place / "model.onnx", table=place / "t.jsonl")
    assert isinstance(outcome, RunsOtherwise)
    assert (outcome.notes, outcome.normalised_ms) == ((), unknown.model.latency_ms)
    assert outcome.model.latency_ms == pytest.approx(outcome.normalised_ms / IN_TURN.median)
    assert sum(layer.latency_ms or 0.0 for layer in outcome.layers) <= outcome.normalised_ms * (1 + 1e-9)
    assert cli.run(words) == 0
    assert "latency, normalised" in capsys.readouterr().out
    job = PredictJob(str(place / "model.onnx"), str(place / "t.jsonl"), {}, 1)
    assert run_model.predict_latency(job).ms == pytest.approx(outcome.model.latency_ms)
    netadapt_onnx.prune(place / "model.onnx", place / "alone.onnx", ratio=0)
    alone = netadapt_onnx.inspect(place / "alone.onnx", table=place / "t.jsonl")
    assert not isinstance(alone, RunsOtherwise)
    assert alone.model.latency_ms == outcome.normalised_ms


def test_a_gate_by_a_table_that_does_not_know_the_file_says_so(place: Path, tmp_path: Path) -> None:
    (tmp_path / "netadapt.toml").write_text(f'[devices.pi]\ntable = "{place / "t.jsonl"}"\n')
    verdict = netadapt_onnx.gate(
        place / "model.onnx", max={"latency": "1000ms"}, device="pi", config=tmp_path / "netadapt.toml"
    )
    assert verdict.ok
    assert "which the table does not know" in verdict.models[0].checks[0].message


def test_what_is_timed_of_files_is_the_files(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[list[bool]] = []

    def measure(models: list[onnx.ModelProto], *_: Any, **__: Any) -> tuple[Timing, ...]:
        timed.append([listed(model) for model in models])
        return tuple(Timing(25.0 if listed(model) else 10.0, (9.0, 26.0), 9) for model in models)

    def ratio(model: onnx.ModelProto, reference: onnx.ModelProto, *_: Any, **__: Any) -> Ratio:
        timed.append([listed(model), listed(reference)])
        return IN_TURN

    netadapt_onnx.prune(task[0], tmp_path / "alone.onnx", ratio=0)
    monkeypatch.setattr(evaluate, "measure", measure)
    outcome = netadapt_onnx.evaluate([task[0], tmp_path / "alone.onnx"], task[1])
    assert [model.latency_ms.median for model in outcome.models if model.latency_ms] == [25.0, 10.0]
    assert outcome.models[0].accuracy == outcome.models[1].accuracy
    assert not [note for note in outcome.notes if "right on" not in note]  # the weights are random
    monkeypatch.setattr(run_model, "measure", measure)
    monkeypatch.setattr(run_model, "ratio", ratio)
    job = TimeJob(str(task[0]), None, {}, 1, "cpu", 1, None, 1.0)
    assert run_model.time_model(job).latency_ms.median == 25.0
    run_model.time_model(TimeJob(str(tmp_path / "alone.onnx"), str(task[0]), {}, 1, "cpu", 1, None, 1.0))
    assert timed == [[True, False], [True], [False, True]]


def test_scaling_aims_at_shares_of_the_file_as_given(
    task: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = NormalisingDevice()
    device_table = Uncut(device)
    monkeypatch.setattr(latency_target, "ratio", lambda *arguments, **options: device.ratio(*arguments, **options))
    monkeypatch.setattr("netadapt_onnx.api.scale.built_table", lambda *_: device_table)
    result = netadapt_onnx.scale(task[0], target="latency=0.2x", method="uniform", out=tmp_path / "run")
    (scaled,) = result.models
    assert scaled.latency_ratio == pytest.approx(0.2, rel=0.12)  # widths so small come in large steps
    assert scaled.resources.latency_ms == pytest.approx(25.0 * scaled.latency_ratio)
    assert all(is_original for _, is_original in device.pairs)
    assert any("normalising alone takes model.onnx as given to 0.400x" in note for note in result.notes)


class Uncut:
    """The table of a simulated device, whose uncut normalised model takes 10 ms."""

    def __init__(self, device: NormalisingDevice) -> None:
        self._device = device
        self.latency_ms = device.latency_ms
        self.staircase = device.staircase

    def predict(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        return self._device.predict(dict(shapes))


def test_a_bundle_measures_the_file_in_turn_with_its_normalised_form(place: Path) -> None:
    """The times of its results are replaced by known ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "REFERENCE_CAP_S", 0.3)
        bundle(place / "model.onnx", place / "b.zip", models=3, time_cap_s=1)
    with zipfile.ZipFile(place / "b.zip") as packed:
        packed.extractall(place)
    manifest = msgspec.json.decode((place / "b/manifest.json").read_bytes(), type=Manifest)
    assert manifest.jobs[-1].models == (0, bundling.ORIGINAL)
    assert manifest.models[str(bundling.ORIGINAL)] != manifest.models["0"]
    run = [sys.executable, "agent.py", "manifest.json", "results.jsonl"]
    subprocess.run(run, cwd=place / "b", check=True, capture_output=True)
    lines = [json.loads(line) for line in (place / "b/results.jsonl").read_text().splitlines()]
    for line in lines:
        if line["record"] == "measured" and line["model"] in (0, bundling.ORIGINAL) and not line.get("us"):
            line["ms"] = line["median_ms"] = [10.0 if line["model"] == 0 else 25.0] * len(line["ms"])
            line["seconds"] = 10.0
    (place / "b/results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    import_results([place / "b/results.jsonl"], place / "there.jsonl")
    table = Table.load(place / "there.jsonl", load(place / "model.onnx").proto)
    ratio = table.original_ratio(load(place / "model.onnx").sha256)
    assert ratio is not None
    assert (ratio.median, table.latency_ms.median_ms) == (0.4, 10.0)
    assert table.original_ratio("another file") is None


def test_where_nothing_can_be_measured_the_table_tells_of_the_file(
    place: Path, task: tuple[Path, Path], tmp_path: Path, compared: list[tuple[bool, bool]]
) -> None:
    assert task[0].read_bytes() == (place / "model.onnx").read_bytes()
    options: dict[str, Any] = {"device": "bundle", "table": place / "t.jsonl", **UNTRAINED}
    unknown = adapt(*task, "latency=0.6x", tmp_path / "unknown", **options)
    assert unknown.met is not True
    assert unknown.normalised is None
    assert any("knows the normalised form of the file, not the file itself" in note for note in unknown.notes)
    netadapt_onnx.profile(place / "model.onnx", place / "t.jsonl", models=8)
    timed = adapt(*task, "latency=0.6x", tmp_path / "known", **options)
    assert (timed.met, timed.stopped, timed.iterations) == (True, "nothing-to-do", 0)
    assert timed.normalising["latency"].ratio == IN_TURN.median
    assert timed.before.latency_ms == 25.0


def test_merged_tables_know_what_one_of_them_knows(tmp_path: Path) -> None:
    runs = [table_of_a_run(tmp_path / f"{i}.jsonl", i) for i in range(3)]
    for path, share in zip(runs[:2], (0.4, 0.44), strict=True):
        last = read(path)[-1]
        assert isinstance(last, Reference)
        ratio = ratio_of_pairs((10.0 * share,) * 6, (10.0,) * 6)
        with path.open("ab") as file:
            own = OriginalTime("a" * 64, ratio)
            file.write(encode([Reference(last.median_ms, last.ci95, last.sessions, last.stopped, last.seconds, own)]))
    merged = merge_tables(runs)[0][-1]
    assert isinstance(merged, Reference) and merged.as_given is not None
    assert merged.as_given.ratio.median == pytest.approx(0.42)
    assert merged.as_given.ratio.reference.sessions == 12
