"""Bring back the model of any iteration of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from netadapt_onnx.common.files import refuse_existing
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.run_directory.file_names import IDENTITY_FILE, MODEL_FILE, PLAN_FILE
from netadapt_onnx.search.run_directory.history import read_history
from netadapt_onnx.search.run_directory.journal import read_journal


@dataclass(frozen=True)
class Restored:
    """`accuracy` is what the search saw, a fraction of the held-out samples; `plan` replays the cut on the original."""

    model: Path
    iteration: int
    accuracy: float
    widths: Mapping[str, int]
    plan: Path


def restore(
    run: str | os.PathLike[str], iteration: int, output: str | os.PathLike[str], *, overwrite: bool = False
) -> Restored:
    """Write the model that `run` had after `iteration`, as the search left it: without the final training.

    Raises NetadaptError if the folder is no run of `adapt`, or has no such iteration or no longer its model, or if
    what it holds is not what the run wrote.

    >>> restore("run", 1, "first.onnx").widths  # of the run that `adapt` wrote
    {'conv1': 4, 'conv2': 16}
    """
    folder = Path(run)
    if not (folder / IDENTITY_FILE).is_file():
        raise NetadaptError(
            f"{folder} is not a run", hint="name the directory given to `adapt -o`", code="missing-file"
        )
    refuse_existing(Path(output), overwrite)
    steps = {step.iteration: step for step in read_history(folder, Step)}
    if iteration not in steps:
        known = f"it has 1 to {max(steps)}" if steps else "it has none yet"
        raise NetadaptError(f"{folder} has no iteration {iteration}; {known}", code="usage")
    place = folder / "iterations" / f"{iteration:03d}"
    if not (place / MODEL_FILE).is_file():
        kept = [n for n in steps if (folder / "iterations" / f"{n:03d}" / MODEL_FILE).is_file()]
        raise NetadaptError(
            f"the model of iteration {iteration} was not kept (--save-interval)",
            hint=f"kept: {', '.join(map(str, kept))}",
            code="missing-file",
        )
    for name in (MODEL_FILE, PLAN_FILE):
        read_journal(folder).require_sealed(place / name)
    step = steps[iteration]
    written = save(load(place / MODEL_FILE).proto, output, overwrite=overwrite)
    return Restored(written, iteration, step.accepted.accuracy, step.widths, place / PLAN_FILE)
