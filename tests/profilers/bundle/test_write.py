"""A bundle that is run by hand gives the table that `profile` gives; results are merged, and refused if unlike."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import plain, residual, unprunable
from netadapt_onnx import cli
from netadapt_onnx.api.profile import bundle, import_results, profile
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers import providers
from netadapt_onnx.profilers.bundle import write as bundling
from netadapt_onnx.profilers.execution import CPU
from netadapt_onnx.profilers.older_runtimes import portable
from netadapt_onnx.profilers.statistics import timing_of_sessions
from netadapt_onnx.profilers.table import build as building
from netadapt_onnx.profilers.table.file import EndToEndTime, read
from netadapt_onnx.profilers.table.predict import Table
from table_runs import cells

Cells = list[tuple[int, tuple[str, ...], str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 12 versions in two shards, unpacked and run once as a whole and once shard by shard."""
    path = tmp_path_factory.mktemp("bundle")
    (path / "model.onnx").write_bytes(residual(32, size=8).SerializeToString())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "REFERENCE_CAP_S", 0.5)
        result = bundle(path / "model.onnx", path / "b.zip", shards=2, models=12)
    assert (result.models, result.shards, result.size_bytes) == (12, 2, (path / "b.zip").stat().st_size)
    for name, shards in {"whole": [""], "shards": ["1", "2"]}.items():
        with zipfile.ZipFile(path / "b.zip") as packed:
            packed.extractall(path / name)
        assert [p.name for p in (path / name).iterdir()] == ["b"]
        for shard in shards:
            command = ["sh", str(path / name / "b" / "run.sh"), *filter(None, [shard])]
            subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, check=True, capture_output=True)
    return path


def test_a_bundle_run_by_hand_gives_the_cells_of_profile(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "REFERENCE_CAP_S", 0.5)
    direct = profile(folder / "model.onnx", folder / "direct.jsonl", models=12)
    arguments = [
        "profile",
        "import",
        str(folder / "whole/b/results.jsonl"),
        "--table",
        str(folder / "t.jsonl"),
        "--json",
    ]
    assert cli.run(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["device"] == direct.device
    assert answer["cells"] == direct.cells
    assert cells(folder / "t.jsonl") == cells(folder / "direct.jsonl")
    assert read(folder / "t.jsonl")[0] == read(folder / "direct.jsonl")[0]
    proto = onnx.load(folder / "model.onnx")
    loaded = Table.load(folder / "t.jsonl", proto, device=dict(direct.device))
    assert direct.latency_ms.median > 0
    result = map(json.loads, (folder / "whole/b/results.jsonl").read_text().splitlines())
    [alone] = [r for r in result if r["record"] == "measured" and "reference_ms" not in r]
    assert loaded.latency_ms == timing_of_sessions(alone["median_ms"])


def test_shards_together_are_the_whole(folder: Path) -> None:
    files = [folder / f"shards/b/results-{i}.jsonl" for i in (1, 2)]
    import_results(files, folder / "s.jsonl")
    import_results([folder / "whole/b/results.jsonl"], folder / "w.jsonl")
    assert cells(folder / "s.jsonl") == cells(folder / "w.jsonl")
    alone = import_results(files[:1], folder / "one.jsonl")
    assert alone.notes[0] == "8 of 12 versions measured"  # and whether the machine was busy


def test_repetitions_count_as_more_versions(folder: Path) -> None:
    files = [folder / "whole/b/results.jsonl", *(folder / f"shards/b/results-{i}.jsonl" for i in (1, 2))]
    result = import_results(files, folder / "r.jsonl")
    once = import_results(files[:1], folder / "once.jsonl")
    assert result.cells == 2 * once.cells
    assert sorted(r.model for r in read(folder / "r.jsonl") if isinstance(r, EndToEndTime)) == list(range(24))
    proto = onnx.load(folder / "model.onnx")
    sessions = [Table.load(folder / f"{name}.jsonl", proto).reference.sessions for name in ("once", "r")]
    assert sessions == [9, 27]


def test_a_bundle_of_a_provider_without_times_of_nodes_is_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU, as if it showed none."""
    monkeypatch.setitem(providers.PROVIDERS, "cpu", dataclasses.replace(CPU.provider, per_node=False))
    monkeypatch.setattr(bundling, "REFERENCE_CAP_S", 0.2)
    bundle(folder / "model.onnx", tmp_path / "b.zip", models=8, time_cap_s=1.0)
    with zipfile.ZipFile(tmp_path / "b.zip") as packed:
        packed.extractall(tmp_path / "there")
    command = ["sh", str(tmp_path / "there/b/run.sh")]
    subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, check=True, capture_output=True)
    result = import_results([tmp_path / "there/b/results.jsonl"], tmp_path / "t.jsonl")
    assert result.cells > 0
    proto = onnx.load(folder / "model.onnx")
    assert len(Table.load(tmp_path / "t.jsonl", proto).end_to_end) == 8  # whatever a second was enough for


def test_a_zip_holds_what_onnxruntime_1_16_reads_and_how_to_run_it(folder: Path) -> None:
    with zipfile.ZipFile(folder / "b.zip") as packed:
        names = packed.namelist()
        assert {f"b/{n}" for n in ("run.sh", "run.bat", "agent.py", "manifest.json", "README.txt")} <= set(names)
        assert len(names) == len(set(names))
        assert all(name.startswith("b/") for name in names)
        assert packed.getinfo("b/run.sh").external_attr >> 16 & 0o111
        for name in names:
            if name.endswith(".onnx"):
                proto = onnx.ModelProto.FromString(packed.read(name))
                assert proto.ir_version <= 9
                assert proto.opset_import[0].version <= 19


def test_results_of_other_devices_or_bundles_are_refused(folder: Path) -> None:
    results = folder / "whole/b/results.jsonl"
    other = folder / "other.jsonl"
    other.write_text(results.read_text().replace('"onnxruntime":"', '"onnxruntime":"0.'))
    with pytest.raises(NetadaptError, match=r"different devices \(onnxruntime: 1.* there, 0\.1.* here"):
        import_results([results, other], folder / "x.jsonl")
    other.write_text(results.read_text().replace('"seed":0', '"seed":7'))
    with pytest.raises(NetadaptError, match=r"different bundles \(seed: 0 there, 7 here"):
        import_results([results, other], folder / "x.jsonl")
    assert not (folder / "x.jsonl").exists()


def test_what_is_no_result_is_refused(folder: Path) -> None:
    bad = folder / "bad.jsonl"
    lines = (folder / "whole/b/results.jsonl").read_text().splitlines(keepends=True)
    for text, message in (
        ("", "holds no results"),
        ('{"record":"end","stopped":"done"}\n', "holds no results"),
        (lines[0] + '{"record":"measured","model":"one"}\n', "line 2"),
        ("".join(lines[:2]), "nothing was measured"),
        ("".join(lines[:4]), "interrupted"),
    ):
        bad.write_text(text)
        with pytest.raises(NetadaptError, match=message):
            import_results([bad], folder / "x.jsonl")
    with pytest.raises(NetadaptError, match="no such file"):
        import_results([folder / "none.jsonl"], folder / "x.jsonl")
    with pytest.raises(NetadaptError, match="exists"):
        import_results([folder / "whole/b/results.jsonl"], bad)


def test_a_torn_last_line_is_left_out(folder: Path) -> None:
    torn = folder / "torn.jsonl"
    torn.write_text((folder / "whole/b/results.jsonl").read_text() + '{"record":"meas')
    assert import_results([torn], folder / "torn-table.jsonl").cells


def test_models_that_no_bundle_can_hold_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(unprunable().SerializeToString())
    with pytest.raises(NetadaptError, match="no group"):
        bundle(tmp_path / "m.onnx", tmp_path / "b.zip")
    (tmp_path / "m.onnx").write_bytes(plain().SerializeToString())
    with pytest.raises(NetadaptError, match="shards 9: from 1 to 8"):
        bundle(tmp_path / "m.onnx", tmp_path / "b.zip", shards=9, models=8)
    with pytest.raises(NetadaptError, match="no option"):
        bundle(tmp_path / "m.onnx", tmp_path / "b.zip", ep="openvino", ep_options={"nonsense": "1"})
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx"}


def newer(op: str, opset: int, ir_version: int = 11, **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y"], name="the_node", **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def test_newer_opsets_are_written_as_older_where_they_mean_the_same() -> None:
    for op, opset in (("Relu", 23), ("Elu", 22), ("IsNaN", 20)):
        result = portable(newer(op, opset))
        assert (result.opset_import[0].version, result.ir_version) == (19, 9)
        assert result.graph.node[0] == newer(op, opset).graph.node[0]
    old = newer("Relu", 11, 6)
    assert portable(old) == old


@pytest.mark.parametrize(("op", "opset"), [("Gelu", 20), ("GroupNormalization", 21), ("RMSNormalization", 23)])
def test_what_older_opsets_lack_is_refused_by_name(op: str, opset: int) -> None:
    with pytest.raises(NetadaptError, match=f"{op}.*'the_node'"):
        portable(newer(op, opset))


def test_a_bundle_unpacks_into_a_folder_of_a_plain_name() -> None:
    for name, folder in (("b.zip", "b"), ("my model (v2).zip", "my_model__v2"), ("..zip", "bundle"), ("-x;.zip", "x")):
        assert bundling.bundle_folder(Path(name)) == folder


def test_a_bundle_of_int8_is_right_on_every_device_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(residual(8, size=8).SerializeToString())
    data = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=data, x_val=data[:8])
    bundle(tmp_path / "model.onnx", tmp_path / "b.zip", models=1, deploy="int8", data=tmp_path / "data.npz")
    with zipfile.ZipFile(tmp_path / "b.zip") as packed:
        packed.extractall(tmp_path)
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    assert manifest["execution"]["quantisation"] == "7-bit weights"
    for file in manifest["models"].values():
        weights = [t for t in onnx.load(tmp_path / "b" / file["file"]).graph.initializer if len(t.dims) == 4]
        assert max(np.abs(numpy_helper.to_array(t).astype(int)).max() for t in weights) == 64
    jobs = [job | {"sessions": 1, "seconds": 0.1} for job in manifest["jobs"]]
    (tmp_path / "b/manifest.json").write_text(json.dumps(manifest | {"jobs": jobs}))
    command = ["sh", str(tmp_path / "b/run.sh")]
    subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, check=True, capture_output=True)
    result = import_results([tmp_path / "b/results.jsonl"], tmp_path / "t.jsonl")
    assert (result.device["precision"], result.device["quantisation"]) == ("int8", "7-bit weights")
