"""Results, tables and answers of strangers: whatever they say, one clear line names what is wrong, or it is right."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from document_mutants import changed, document_mutant, put
from models import residual
from netadapt_onnx import cli
from netadapt_onnx.api.profile import bundle, import_results
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers import packing
from netadapt_onnx.profilers.bundle import write as bundling
from netadapt_onnx.profilers.random_widths import random_widths
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.surgery.trace import trace

MUTANTS = int(os.environ.get("NETADAPT_MUTANTS", "80"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a bundle of three versions, and the table made of them."""
    path = tmp_path_factory.mktemp("hostile")
    (path / "model.onnx").write_bytes(residual(16, size=8).SerializeToString())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "REFERENCE_CAP_S", 0.1)
        bundle(path / "model.onnx", path / "b.zip", models=3, time_cap_s=1.0)
    with zipfile.ZipFile(path / "b.zip") as packed:
        packed.extractall(path)
    command = ["sh", str(path / "b/run.sh")]
    subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, check=True, capture_output=True)
    (path / "b/results.jsonl").rename(path / "results.jsonl")
    import_results([path / "results.jsonl"], path / "table.jsonl")
    return path


def ends_well(capsys: pytest.CaptureFixture[str], *arguments: object) -> int:
    """The exit code of a command that says yes, or one line of what is wrong."""
    code = cli.run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert code in (0, 2), err
    assert len(err.splitlines()) == (code == 2), err
    assert "bug" not in err, err
    assert not any((c < " " and c != "\n") or c == "\x7f" for c in out + err), repr(out + err)
    return code


@pytest.mark.parametrize("name", ["results", "table"])
def test_mutated_files_are_refused_in_one_line_or_imported(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (folder / f"{name}.jsonl").read_bytes()
    proto = onnx.load(folder / "model.onnx")
    shapes = [random_widths(trace(fold(proto)))(np.random.default_rng(i)).shapes for i in range(2)]
    file, profiled = tmp_path / "f.jsonl", tmp_path / "made.jsonl"
    refused = 0
    for seed in range(MUTANTS):
        file.write_bytes(document_mutant(data, random.Random(seed)))
        try:
            code = ends_well(capsys, "profile", "import", file, "--table", profiled, "--overwrite")
            refused += code == 2
            for table in [profiled] * (code == 0) + [file] * (name == "table"):
                try:
                    loaded = Table.load(table, proto)
                except NetadaptError:
                    continue
                assert np.isfinite([loaded.predict_with_error(s) for s in shapes]).all()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert refused > MUTANTS / 3


def bomb(size: int) -> str:
    return base64.b64encode(zlib.compress(bytes(size))).decode()


@pytest.mark.parametrize(
    ("line", "place", "value", "expected"),
    [
        (0, ("manifest", "schema"), 99, "schema: format 99, and this version reads 1"),
        (0, ("manifest", "about", "header", "schema"), 9, "has table format 9"),
        (0, ("manifest", "about", "graph"), bomb(packing.MOST_BYTES + 1), "the manifest: holds more than"),
        (0, ("manifest", "about", "shapes"), "AAAA", "the manifest: is not compressed"),
        (0, ("manifest", "execution", "ep"), "unknown", "line 1: the manifest: no execution provider 'unknown'"),
        (0, ("manifest", "execution", "threads"), 0, "`int` >= 1 - at `$.threads`"),
        (1, ("environment", "cpu"), None, "environment: Expected `str`, got `null` - at `$.cpu`"),
        (2, ("ms", 0), -1.0, "`float` > 0.0 - at `$.ms[0]`"),
        (2, ("median_ms", 0), 1e9, "`float` <= 3600000.0 - at `$.median_ms[0]`"),
        (2, ("median_ms",), [1.0], "median_ms: 1 sessions, and 2 in ms"),
        (2, ("job",), 7, "job: 7 was not asked for"),
        (2, ("model",), 7, "model: 7 was not asked for"),
        (2, ("model",), 1, "model: 1 of job 0 has a record already"),
        (2, ("median_ms",), [3e6, 3e6], "too few for a sum of 6e+06 in median_ms"),
        (2, ("optimised",), bomb(packing.MOST_BYTES + 1), "optimised: holds more than"),
        (2, ("optimised",), bomb(100), "optimised: holds no ONNX model"),
        (2, ("record",), "unheard", "Invalid value 'unheard' - at `$.record`"),
    ],
)
def test_a_lie_is_named_by_its_line_and_field(
    line: int, place: tuple[Any, ...], value: Any, expected: str, folder: Path, tmp_path: Path
) -> None:
    lines = [json.loads(text) for text in (folder / "results.jsonl").read_text().splitlines()]
    lines[line] = changed(lines[line], place, put(value))
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    with pytest.raises(NetadaptError) as caught:
        import_results([tmp_path / "f.jsonl"], tmp_path / "t.jsonl")
    assert expected in caught.value.message
    # A second record of the same model is the later one.
    numbered = f"f.jsonl, line {line + 1 + (place == ('model',) and value == 1)}: "
    assert numbered in caught.value.message or line == 0
    assert not (tmp_path / "t.jsonl").exists()
