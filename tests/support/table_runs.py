"""Tables as several runs on several devices would write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models import residual
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers.random_widths import RandomWidthModel, random_widths
from netadapt_onnx.profilers.table.build import header_of
from netadapt_onnx.profilers.table.file import Cell, EndToEndTime, Record, Reference, encode, read
from netadapt_onnx.profilers.units import Layers
from netadapt_onnx.surgery.trace import trace

TRACED = trace(fold(residual(32, size=8)))
REFERENCE, DRAW = RandomWidthModel(TRACED.folded.proto, TRACED.folded.shapes), random_widths(TRACED)
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
            slowdown = 1.5 if rng.random() < 0.1 else 1.0
            shapes = [list(version.shapes[t]) for t in layers.tensors(name)]
            records.append(Cell(m, [name], shapes, true * speed * slowdown, "Conv"))
        sessions_ms = sum(us(version).values()) * rng.normal(1, noise, 2) * speed / 1000
        records.append(EndToEndTime(m, sessions_ms.tolist(), [uncut * speed / 1000] * 2, uncut * speed, 20, 0.1, 0.01))
    records.append(Reference(uncut * speed / 1000, (0.9, 1.1), 9, "done", 1.0))
    path.write_bytes(encode(records))
    return path


def cells(table: Path) -> list[tuple[int, tuple[str, ...], str]]:
    """What a table has measured, without the times: model, layers, shapes."""
    return sorted((r.model, tuple(r.layers), str(r.shapes)) for r in read(table) if isinstance(r, Cell))
