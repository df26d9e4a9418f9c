"""What changed between two model files: what `diff` does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from netadapt_onnx.common.options import File
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.gating.compare import Diff, compare_facts
from netadapt_onnx.gating.jobs import CountJob
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
) -> Diff:
    """Compare two model files; `git:REV` in the place of one is the other as it was at that revision.

    Raises NetadaptError for what is no model, and for a revision that does not have it.

    >>> diff("model.onnx", "before.onnx").identical
    True
    """
    names = [os.fspath(a), os.fspath(b)]
    revisions = [name.startswith("git:") for name in names]
    if all(revisions):
        raise NetadaptError(
            "two revisions are given, and no model", hint="give the path of the model as one of the two", code="usage"
        )
    input_shapes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    with Sandbox(timeout_s, memory_bytes) as sandbox, tempfile.TemporaryDirectory() as scratch:
        files = [
            _at_revision(name[4:], Path(names[1 - i]), Path(scratch), sandbox) if revisions[i] else Path(name)
            for i, name in enumerate(names)
        ]
        facts = [sandbox.ask(CountJob(str(file), input_shapes, batch_size, digests=True), Facts) for file in files]
    return compare_facts(*facts)


def _at_revision(revision: str, model: Path, scratch: Path, sandbox: Sandbox) -> Path:
    file = check_out(revision, model, scratch, sandbox)
    if file is None:
        raise NetadaptError(f"{model} is not in git at {revision}", hint="name another revision", code="missing-file")
    return file
