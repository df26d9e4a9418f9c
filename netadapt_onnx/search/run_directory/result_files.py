"""The results of a run and of its targets, in files with paths within the run directory, which the journal seals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from netadapt_onnx.common.json_output import UNREADABLE, write_json
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.search.result import UNDECIDED, AdaptResult, TargetResult
from netadapt_onnx.search.run_directory.file_names import RESULT_FILE
from netadapt_onnx.search.run_directory.run import Run

Result = TypeVar("Result", AdaptResult, TargetResult)


def write_result(run: Run, result: AdaptResult, models: Sequence[TargetResult]) -> None:
    """Write the result of a run."""
    inside = tuple(_within(run, model) for model in models)
    _write(run, run.path / RESULT_FILE, replace(result, model=inside[-1].model, models=inside))


def read_result(run: Run, max_iterations: int) -> AdaptResult | None:
    """The result of a run; None if the run has not ended, or can go on, or its models have to be written again.

    Args:
        run: The run.
        max_iterations: The total number of iterations that it may take now.

    Raises:
        NetadaptError: Its files are not those that it wrote.
    """
    result = _read(run, run.path / RESULT_FILE, AdaptResult)
    if result is None or result.stopped in ("max-time", UNDECIDED):
        return None
    if result.stopped == "max-iterations" and max_iterations > result.iterations:
        return None
    if not all(_has_files(run, each) for each in result.models):
        return None
    models = tuple(replace(model, model=run.path / model.model) for model in result.models)
    return replace(result, model=run.path / result.model, models=models)


def write_target(run: Run, number: int, finished: TargetResult) -> None:
    """Write the result of a target."""
    _write(run, _target_file(run, number), _within(run, finished))


def read_target(run: Run, number: int) -> TargetResult | None:
    """The result of a target; None if it was not reached, could not be judged, or has to be written again."""
    finished = _read(run, _target_file(run, number), TargetResult)
    if finished is None or finished.stopped == UNDECIDED or not _has_files(run, finished):
        return None
    return replace(finished, model=run.path / finished.model)


def _target_file(run: Run, number: int) -> Path:
    return run.path / f".target-{number}.json"


def _within(run: Run, finished: TargetResult) -> TargetResult:
    return replace(finished, model=finished.model.relative_to(run.path))


def _has_files(run: Run, finished: TargetResult) -> bool:
    deployed = [] if finished.deployed is None else [finished.model.with_name(finished.deployed.file)]
    return all(run.journal.is_sealed(run.path / file) for file in (finished.model, *deployed))


def _write(run: Run, file: Path, result: object) -> None:
    write_json(file, result)
    run.journal.seal(file)


def _read(run: Run, file: Path, kind: type[Result]) -> Result | None:
    if not run.journal.is_sealed(file):
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind, dec_hook=lambda inner, value: inner(value))
    except UNREADABLE as error:  # of a version whose files are not sealed
        raise NetadaptError(
            f"{file}: {' '.join(str(error).split())}", hint="remove it: --resume makes it again", code="corrupt-run"
        ) from error
