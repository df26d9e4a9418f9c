"""Latency tables: what each width of each layer costs on this machine, learnt from random-width versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netadapt_onnx.evaluation import Latency, latency
from netadapt_onnx.inspection import Shapes, Source, opened, prepare_output, traced
from netadapt_onnx.profilers.build import MODELS, Validation, Variant, build, random_versions, validate
from netadapt_onnx.search.subject import require_prunable

TIME_CAP_S = 100.0


@dataclass(frozen=True)
class ProfileResult:
    """`device` is the fingerprint that the table is valid for; `seconds` what building took, over all resumes."""

    table: Path
    device: Mapping[str, object]
    cells: int
    seconds: float
    latency_ms: Latency
    validation: Validation | None


def profile(
    model: Source,
    table: str | os.PathLike[str],
    *,
    ep: str = "cpu",
    threads: int = 1,
    held_out: int = 0,
    models: int = MODELS,
    time_cap_s: float = TIME_CAP_S,
    seed: int = 0,
    shapes: Shapes | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> ProfileResult:
    """Build the latency table of `model` on this machine from `models` versions, or complete an interrupted one.

    `held_out` > 0 predicts and times that many widths that the table has not seen. `overwrite` starts anew, and the old
    table goes when the new one is complete. Raises NetadaptError if `table` is another device's or another model's,
    or if nothing can be measured.
    """
    path = Path(table)
    source = opened(model)
    prepare_output(path, True, source)
    found = traced(source, shapes, batch_size)
    require_prunable(source, found)
    reference, draw = Variant(found.folded.proto, found.folded.shapes), random_versions(found)
    with _place(path, anew=overwrite) as place:
        built = build(
            place,
            reference,
            draw,
            ep=ep,
            threads=threads,
            models=models,
            time_cap_s=time_cap_s,
            progress=progress,
            seed=seed,
        )
    validation = validate(built, reference, draw, held_out, progress=progress) if held_out else None
    return ProfileResult(path, built.device, len(built.cells), built.seconds, latency(built.latency_ms), validation)


@contextmanager
def _place(path: Path, *, anew: bool) -> Iterator[Path]:
    """Where to build: in `path`, which an interrupted build goes on with; or, `anew`, beside it, and then renamed."""
    if not anew:
        yield path
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
