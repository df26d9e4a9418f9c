"""What a search runs in: its directory, its options, and who watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netadapt_onnx.common.progress import Progress
from netadapt_onnx.profilers.execution import Execution
from netadapt_onnx.search.notes import Notes
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.run_directory.run import Run


@dataclass(frozen=True)
class SearchEnvironment:
    """What a search runs in.

    Attributes:
        run: The run directory, which this process holds.
        options: The user's options.
        execution: How models run where they are measured.
        progress: Follows what takes long.
        log: Gets a line per event.
        notes: What users should know of the result.
    """

    run: Run
    options: AdaptOptions
    execution: Execution
    progress: Progress
    log: Callable[[str], None]
    notes: Notes
