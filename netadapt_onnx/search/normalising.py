"""What normalising alone gains: the file as given, beside which a search measures, against its normalised form."""

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


class Normalising(Protocol):
    """The file as given on one device."""

    @property
    def reference(self) -> onnx.ModelProto:
        """What every other model is measured beside."""

    @property
    def ratio(self) -> Ratio | None:
        """The normalised model's resource relative to the file's; None where no difference can be told."""

    @property
    def note(self) -> str:
        """Why the normalised model stands for the file, if it has to."""


class Measured:
    """`normalised` measured once in a run, by `measure`, beside the file `given`, if a runtime sees two graphs."""

    def __init__(
        self, run: Run, resource: str, given: AsGiven | None, normalised: onnx.ModelProto, measure: Measure
    ) -> None:
        self._run = run
        self._key = f"{resource}/normalised"
        self._given = given
        self._normalised = normalised
        self._measure = measure

    @property
    def reference(self) -> onnx.ModelProto:
        """The file; its normalised form where that is all that a runtime sees of it, or the device cannot run it."""
        given = None if self._given is None or self._once is None else self._given.proto
        return self._normalised if given is None else given

    @property
    def ratio(self) -> Ratio | None:
        """The normalised model's resource relative to the file's; None where no difference can be told."""
        return self._once if self._once is not None and self._once.differs else None

    @property
    def note(self) -> str:
        """Why the normalised model stands for the file, if it has to."""
        why = self._run.recall(f"{self._key}/refused")
        return str(why) if why is not None else self._given.note if self._given is not None else ""

    @cached_property
    def _once(self) -> Ratio | None:
        """None where there is nothing to compare."""
        refused = f"{self._key}/refused"
        if self._given is None or self._given.proto is None or self._run.recall(refused) is not None:
            return None
        try:
            return self._measure(self._normalised, self._given.proto)
        except NetadaptError as error:
            why = stands_in(error)
            self._run.once(refused, lambda: why)
            return None


def gained(resource: str, file: str, ratio: float, ci95: tuple[float, float]) -> str:
    """What normalising alone gains, and how to have just that."""
    return (
        f"{resource}: normalising alone takes {file} as given to {ratio:.3f}x (95%: {ci95[0]:.3f}x to {ci95[1]:.3f}x); "
        f"`netadapt-onnx prune {file} --ratio 0 -o OUT.onnx` writes that"
    )


class Recorded:
    """What a table knows of the file: nothing can be measured."""

    def __init__(self, table: object, given: AsGiven | None, normalised: onnx.ModelProto) -> None:
        self.reference = normalised
        known = table.original_ratio(given.sha256) if isinstance(table, Table) and given is not None else None
        self.ratio = known if known is not None and known.differs else None
        unknown = given is not None and given.proto is not None and known is None
        self.note = "the table knows the normalised form of the file, not the file itself" if unknown else ""
