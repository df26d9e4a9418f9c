from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import residual
from netadapt_onnx.api.profile import import_results
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.fold import fold
from netadapt_onnx.profilers.random_widths import RandomWidthModel, random_versions
from netadapt_onnx.profilers.table.build import header_of
from netadapt_onnx.profilers.table.predict import Cell, Record, Reference, Table, Whole, encode
from netadapt_onnx.profilers.units import Layers
from netadapt_onnx.surgery.trace import trace

TRACED = trace(fold(residual(32, size=8)))
REFERENCE, DRAW = RandomWidthModel(TRACED.folded.proto, TRACED.folded.shapes), random_versions(TRACED)
VERSIONS = [REFERENCE] + [DRAW(np.random.default_rng([0, m])) for m in range(1, 12)]
WEIGHTS = {n.name: n.input[1] for n in REFERENCE.proto.graph.node if n.op_type in {"Conv", "Gemm"}}


def run(path: Path, seed: int, *, speed: float = 1.0, noise: float = 0.01, device: str = "here") -> Path:
    """A table as one run would write it on a device of this speed; a cell in ten is disturbed."""
    rng = np.random.default_rng(seed)
    layers = Layers(REFERENCE.proto)

    def us(version: RandomWidthModel) -> dict[str, float]:
        return {name: 5.0 + 0.1 * float(np.prod(version.shapes[w][:2])) for name, w in WEIGHTS.items()}

    uncut = sum(us(REFERENCE).values())
    records: list[Record] = [header_of(REFERENCE, {"cpu": device}, len(VERSIONS), 0)]
    for m, version in enumerate(VERSIONS):
        for name, true in us(version).items():
            disturbed = 1.5 if rng.random() < 0.1 else 1.0
            shapes = [list(version.shapes[t]) for t in layers.tensors(name)]
            records.append(Cell(m, [name], shapes, true * speed * disturbed, "Conv"))
        whole = sum(us(version).values()) * rng.normal(1, noise, 2) * speed / 1000
        records.append(Whole(m, whole.tolist(), [uncut * speed / 1000] * 2, uncut * speed, 20, 0.1, 0.01))
    records.append(Reference(uncut * speed / 1000, (0.9, 1.1), 9, "done", 1.0))
    path.write_bytes(encode(records))
    return path


def test_cells_are_the_median_of_runs_at_one_speed(tmp_path: Path) -> None:
    runs = [run(tmp_path / f"{i}.jsonl", i, speed=s) for i, s in enumerate((1.0, 1.3, 0.8, 1.1, 1.0))]
    merged = tmp_path / "merged.jsonl"
    result = import_results(runs, merged)
    table = Table.load(merged, REFERENCE.proto)
    assert result.cells == len(table.cells) == len(Table.load(runs[0], REFERENCE.proto).cells)
    assert result.notes == ()
    speeds = {whole.model: whole.reference_us for whole in table.wholes}
    uncut = sum(5.0 + 0.1 * np.prod(REFERENCE.shapes[w][:2]) for w in WEIGHTS.values())
    off = []
    for cell in table.cells:
        true = 5.0 + 0.1 * np.prod(VERSIONS[cell.model].shapes[WEIGHTS[cell.layers[0]]][:2])
        assert cell.us is not None
        off.append(abs(cell.us / speeds[cell.model] * uncut / true - 1))
    assert np.mean(np.array(off) > 0.01) < 0.03  # one in ten was, in each run
    assert all(len(whole.ms) == 10 for whole in table.wholes)


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
