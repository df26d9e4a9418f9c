from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netadapt_onnx.api.profile import import_results
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.table.predict import Table
from table_runs import REFERENCE, VERSIONS, WEIGHTS, run


def test_cells_are_the_median_of_runs_at_one_speed(tmp_path: Path) -> None:
    runs = [run(tmp_path / f"{i}.jsonl", i, speed=s) for i, s in enumerate((1.0, 1.3, 0.8, 1.1, 1.0))]
    merged = tmp_path / "merged.jsonl"
    result = import_results(runs, merged)
    table = Table.load(merged, REFERENCE.proto)
    assert result.cells == len(table.cells) == len(Table.load(runs[0], REFERENCE.proto).cells)
    assert result.notes == ()
    speeds = {time.model: time.reference_us for time in table.end_to_end}
    uncut = sum(5.0 + 0.1 * np.prod(REFERENCE.shapes[w][:2]) for w in WEIGHTS.values())
    off = []
    for cell in table.cells:
        true = 5.0 + 0.1 * np.prod(VERSIONS[cell.model].shapes[WEIGHTS[cell.layers[0]]][:2])
        assert cell.us is not None
        off.append(abs(cell.us / speeds[cell.model] * uncut / true - 1))
    assert np.mean(np.array(off) > 0.01) < 0.03  # one in ten was, in each run
    assert all(len(time.ms) == 10 for time in table.end_to_end)


def test_a_run_that_disagrees_is_named(tmp_path: Path) -> None:
    runs = [run(tmp_path / f"{i}.jsonl", i, noise=0.005) for i in range(4)]
    runs.append(run(tmp_path / "noisy.jsonl", 9, noise=0.3))
    [note] = import_results(runs, tmp_path / "merged.jsonl").notes
    assert "noisy.jsonl is an outlier" in note


def test_what_differs_is_not_merged(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a.jsonl", 0), run(tmp_path / "b.jsonl", 1, device="there")
    with pytest.raises(NetadaptError, match="cpu: here there, there here"):
        import_results([one, other], tmp_path / "merged.jsonl")
    (tmp_path / "notes.jsonl").write_text("mine\n")
    with pytest.raises(NetadaptError, match=r"a.jsonl is a table and .*notes.jsonl is not"):
        import_results([one, tmp_path / "notes.jsonl"], tmp_path / "merged.jsonl")


def test_an_unfinished_table_is_not_merged(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a.jsonl", 0), run(tmp_path / "b.jsonl", 1)
    other.write_bytes(b"".join(other.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(NetadaptError, match=r"b\.jsonl is not complete"):
        import_results([one, other], tmp_path / "merged.jsonl")
