"""`restore`: the model of any accepted iteration of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from netadapt_onnx.common.files import refuse_existing
from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.common.options import File
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.search.netadapt import Step
from netadapt_onnx.search.run_directory.file_names import IDENTITY_FILE, MODEL_FILE, PLAN_FILE
from netadapt_onnx.search.run_directory.journal import read_history, read_journal


@dataclass(frozen=True)
class Restored:
    """A restored model: `accuracy` is that on validation data, `plan` repeats the cut on the original."""

    model: Path
    iteration: int
    accuracy: float
    widths: Mapping[str, int]
    plan: Path


def restore(run: File, iteration: int, output: File, *, overwrite: bool = False) -> Restored:
    """Write the model that a run of `adapt` had after an iteration, before any final training.

    Args:
        run: The run's directory.
        iteration: The number of an accepted iteration, from 1.
        output: The file to write.
        overwrite: Whether an existing `output` is replaced.

    Raises:
        NetadaptError: The folder is no run of `adapt`, it has no such iteration or no longer its model, or its files
            were changed since the run wrote them.

    >>> restore("run", 1, "first.onnx").widths  # of the run that `adapt` wrote
    {'conv1': 4, 'conv2': 16}
    """
    folder = Path(run)
    if not (folder / IDENTITY_FILE).is_file():
        raise missing_file(folder, what="not a run directory", otherwise="name the directory given to `adapt -o`")
    refuse_existing(Path(output), overwrite)
    steps = {step.iteration: step for step in read_history(folder, Step)}
    if iteration not in steps:
        range_text = f"it has 1 to {max(steps)}" if steps else "it has none yet"
        raise NetadaptError(f"{folder} has no iteration {iteration}; {range_text}", code="usage")
    iteration_folder = folder / "iterations" / f"{iteration:03d}"
    if not (iteration_folder / MODEL_FILE).is_file():
        kept = [n for n in steps if (folder / "iterations" / f"{n:03d}" / MODEL_FILE).is_file()]
        raise NetadaptError(
            f"the model of iteration {iteration} was not kept (--save-interval)",
            hint=f"kept: {', '.join(map(str, kept))}",
            code="missing-file",
        )
    for name in (MODEL_FILE, PLAN_FILE):
        read_journal(folder).require_sealed(iteration_folder / name)
    step = steps[iteration]
    written = save(load(iteration_folder / MODEL_FILE).proto, output, overwrite=overwrite)
    return Restored(written, iteration, step.accepted.accuracy, step.widths, iteration_folder / PLAN_FILE)
