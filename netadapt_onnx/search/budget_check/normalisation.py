"""What normalising a model alone gains: the user's file, beside which a search measures, and its normalised form."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import onnx

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.original_file import AsGiven, stands_in
from netadapt_onnx.profilers.statistics import Ratio
from netadapt_onnx.profilers.table.predict import Table
from netadapt_onnx.search.run_directory.run import Run

Measure = Callable[[onnx.ModelProto, onnx.ModelProto], Ratio]


class Normalisation(Protocol):
    """The user's file on one device, beside its normalised form."""

    @property
    def reference(self) -> onnx.ModelProto:
        """The model that every other model is measured beside."""
        ...

    @property
    def ratio(self) -> Ratio | None:
        """The normalised model's resource relative to the file's; None where measurements show no difference."""
        ...

    @property
    def note(self) -> str:
        """Why the normalised model stands for the file, if it has to."""
        ...


class MeasuredNormalisation:
    """The file and its normalised form measured beside one another once in a run, if a runtime sees two graphs."""

    def __init__(
        self, run: Run, resource: str, file: AsGiven | None, normalised: onnx.ModelProto, measure: Measure
    ) -> None:
        """Compare the user's file with its normalised form by `measure`, once the ratio is first needed."""
        self._run = run
        self._key = f"{resource}/normalised"
        self._file = file
        self._normalised = normalised
        self._measure = measure

    @property
    def reference(self) -> onnx.ModelProto:
        """The file; its normalised form where that is all that a runtime sees of it, or the device cannot run it."""
        file = None if self._file is None or self._measured is None else self._file.proto
        return self._normalised if file is None else file

    @property
    def ratio(self) -> Ratio | None:
        """The normalised model's resource relative to the file's; None where measurements show no difference."""
        return self._measured if self._measured is not None and self._measured.differs else None

    @property
    def note(self) -> str:
        """Why the normalised model stands for the file, if it has to."""
        why = self._run.recall(f"{self._key}/refused")
        return str(why) if why is not None else self._file.note if self._file is not None else ""

    @cached_property
    def _measured(self) -> Ratio | None:
        """The ratio, measured on first use; None where there is nothing to compare."""
        refused = f"{self._key}/refused"
        if self._file is None or self._file.proto is None or self._run.recall(refused) is not None:
            return None
        try:
            return self._measure(self._normalised, self._file.proto)
        except NetadaptError as error:
            why = stands_in(error)
            self._run.once(refused, lambda: why)
            return None


class RecordedNormalisation:
    """What a table holds of the file, for a device on which nothing can be measured."""

    def __init__(self, table: object, file: AsGiven | None, normalised: onnx.ModelProto) -> None:
        """Look the file up in a table."""
        self.reference = normalised
        recorded = table.original_ratio(file.sha256) if isinstance(table, Table) and file is not None else None
        self.ratio = recorded if recorded is not None and recorded.differs else None
        missing = file is not None and file.proto is not None and recorded is None
        self.note = "the table knows the normalised form of the file, not the file itself" if missing else ""


def normalisation_note(resource: str, file: str, ratio: float, ci95: tuple[float, float]) -> str:
    """What normalising alone gains, and how to have just that."""
    return (
        f"{resource}: normalising alone takes {file} as given to {ratio:.3f}x (95%: {ci95[0]:.3f}x to {ci95[1]:.3f}x); "
        "`netadapt-onnx prune MODEL --ratio 0 -o normalised.onnx` writes that"
    )
