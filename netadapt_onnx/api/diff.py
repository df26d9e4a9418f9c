"""What changed between two model files: what `diff` does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from netadapt_onnx.common.options import File
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.compare import Diff, compare_facts
from netadapt_onnx.gating.jobs import CountJob, LayersJob
from netadapt_onnx.gating.records import Facts
from netadapt_onnx.gating.revision import check_out
from netadapt_onnx.gating.sandbox import MEMORY_BYTES, TIMEOUT_S, Sandbox


def diff(
    a: File,
    b: File,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch_size: int = 1,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
    graph: File | None = None,
    overwrite: bool = False,
) -> Diff:
    """Compare two model files; `git:REV` in the place of one is the other as it was at that revision.

    `graph` (.svg, .html, .dot) gets a drawing of both as one network, with the widths of its layers in `a` and in `b`;
    an existing file is replaced with `overwrite`.

    Raises NetadaptError for what is no model, for a revision that does not have it, and for a drawing that cannot be
    made.

    >>> diff("model.onnx", "before.onnx").identical
    True
    """
    names = [os.fspath(a), os.fspath(b)]
    revisions = [name.startswith("git:") for name in names]
    if all(revisions):
        raise NetadaptError(
            "two revisions are given, and no model", hint="give the path of the model as one of the two", code="usage"
        )
    drawing = None if graph is None else Path(graph)
    if drawing is not None:
        _prepare_drawing(drawing, overwrite, [Path(name) for name in names if not name.startswith("git:")])
    input_shapes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    with Sandbox(timeout_s, memory_bytes) as sandbox, tempfile.TemporaryDirectory() as scratch:
        files = [
            _at_revision(name[4:], Path(names[1 - i]), Path(scratch), sandbox) if revisions[i] else Path(name)
            for i, name in enumerate(names)
        ]
        facts = [sandbox.ask(CountJob(str(file), input_shapes, batch_size, digests=True), Facts) for file in files]
        if drawing is not None:
            _draw([LayersJob(str(file), input_shapes, batch_size) for file in files], sandbox, drawing, names)
    return compare_facts(*facts)


def _prepare_drawing(drawing: Path, overwrite: bool, models: Sequence[Path]) -> None:
    """Raise NetadaptError where a drawing cannot be made or may not be written."""
    from netadapt_onnx.api.source import prepare_output
    from netadapt_onnx.reporting.graphviz import require_drawable

    require_drawable(drawing)
    prepare_output(drawing, overwrite, *models)


def _draw(jobs: Sequence[LayersJob], sandbox: Sandbox, drawing: Path, names: Sequence[str]) -> None:
    """Draw both models with the widths of their layers; like everything of theirs, their layers are read elsewhere."""
    from netadapt_onnx.reporting.network_drawing import draw_widths
    from netadapt_onnx.surgery.layer_graph import LayerGraph

    before, after = (sandbox.ask(job, LayerGraph) for job in jobs)
    draw_widths(before, after, drawing, f"{names[0]} and {names[1]}")


def _at_revision(revision: str, model: Path, scratch: Path, sandbox: Sandbox) -> Path:
    file = check_out(revision, model, scratch, sandbox)
    if file is None:
        raise NetadaptError(f"{model} is not in git at {revision}", hint="name another revision", code="missing-file")
    return file
