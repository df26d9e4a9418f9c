"""Several tables of one model and one device made into one: the median of each cell; runs that disagree are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.execution import differences
from netadapt_onnx.profilers.statistics import crowd
from netadapt_onnx.profilers.table.predict import BEGINNING, Cell, Header, OriginalTime, Record, Reference, Whole, read
from netadapt_onnx.profilers.timing import pooled, timing

# A run is an outlier if its versions are off the median run by so many times what the others are, and by this much.
TIMES, LEAST = 3.0, 0.02

Key = tuple[int, tuple[str, ...], str, int]


def is_table(path: Path) -> bool:
    """Whether a file begins as a table does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING


def merged_tables(paths: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """The records of one table of all runs, and what to know of them.

    Cells are compared at the speed that the uncut model had beside them. Raises NetadaptError, naming what differs, for
    tables of different models, devices or plans, and for one that is not complete.
    """
    runs = [_complete(path) for path in paths]
    header = runs[0][0]
    for path, (other, *_) in zip(paths[1:], runs[1:], strict=True):
        ours, theirs = ({**msgspec.structs.asdict(h), **h.device} for h in (header, other))
        unlike = [line for line in differences(ours, theirs) if not line.startswith(("device:", "tool:"))]
        if unlike:
            raise NetadaptError(
                f"{path} cannot be merged with {paths[0]}: {'; '.join(unlike)}",
                hint="merge tables of one model, device and plan",
                code="other-table",
            )
    wholes = [{w.model: w for w in _at_one_speed(whole, runs[0][2])} for _, _, whole, _ in runs]
    cells: dict[Key, list[tuple[Cell, float]]] = {}
    for (_, keyed, _, _), whole in zip(runs, wholes, strict=True):
        for key, cell in keyed.items():
            if key[0] in whole and cell.us is not None:
                cells.setdefault(key, []).append((cell, cell.us / whole[key[0]].reference_us))
    records: list[Record] = [header]
    for model in sorted(set().union(*wholes)):
        found = [whole[model] for whole in wholes if model in whole]
        speed = float(np.median([w.reference_us for w in found]))
        for key in [key for key in cells if key[0] == model]:
            alike = cells[key]
            us = round(float(np.median([share for _, share in alike])) * speed, 3)
            records.append(msgspec.structs.replace(alike[0][0], us=us))
        records.append(_joined(found, speed))
    references = [reference for *_, reference in runs]
    whole_ms = timing([reference.median_ms for reference in references])
    records.append(
        Reference(
            whole_ms.median_ms,
            (min(r.ci95[0] for r in references), max(r.ci95[1] for r in references)),
            sum(r.sessions for r in references),
            "; ".join(dict.fromkeys(r.stopped for r in references)),
            sum(r.seconds for r in references),
            _own_time(references),
        )
    )
    return records, _outliers(paths, wholes)


def _own_time(references: Sequence[Reference]) -> OriginalTime | None:
    """Those of one file, that of the first table that knows one, together."""
    known = [reference.as_given for reference in references if reference.as_given is not None]
    alike = [own.ratio for own in known if own.sha256 == known[0].sha256]
    return OriginalTime(known[0].sha256, pooled(alike)) if known else None


def _complete(path: Path) -> tuple[Header, dict[Key, Cell], list[Whole], Reference]:
    records, _, _ = read(path)
    references = [r for r in records if isinstance(r, Reference)]
    header = records[0] if records else None
    if not isinstance(header, Header) or not references:
        raise NetadaptError(f"{path} is not complete", hint="run `profile` again: it goes on", code="table")
    keyed: dict[Key, Cell] = {}
    for cell in records:
        if not isinstance(cell, Cell):
            continue
        if cell.us is None:
            raise NetadaptError(f"{path} has no times of kernels to merge", hint="build one longer", code="table")
        key = (cell.model, tuple(cell.layers), cell.kernel, 0)
        while key in keyed:
            key = (*key[:3], key[3] + 1)
        keyed[key] = cell
    return header, keyed, [r for r in records if isinstance(r, Whole)], references[-1]


def _at_one_speed(wholes: Sequence[Whole], others: Sequence[Whole]) -> list[Whole]:
    """A run's versions, the uncut model beside them as if it had run at another run's speed: its spread is its own."""
    own, theirs = (float(np.median([t for w in run for t in w.witness_ms])) for run in (wholes, others))
    scaled = {w.model: [t * theirs / own for t in w.witness_ms] for w in wholes}
    return [msgspec.structs.replace(w, reference_median_ms=scaled[w.model]) for w in wholes]


def _joined(found: Sequence[Whole], reference_us: float) -> Whole:
    """One version's sessions of all runs together."""
    return Whole(
        found[0].model,
        [ms for w in found for ms in w.ms],
        [ms for w in found for ms in w.reference_ms],
        reference_us,
        sum(w.rounds for w in found),
        sum(w.seconds for w in found),
        max(w.interval for w in found),
        [ms for w in found for ms in w.reference_median_ms],
        *crowd(found),
    )


def _outliers(paths: Sequence[Path], wholes: Sequence[Mapping[int, Whole]]) -> list[str]:
    """A line for every run whose versions are off the median run; two runs cannot tell which is wrong."""
    common = sorted(set.intersection(*(set(whole) for whole in wholes)))
    if len(wholes) < 3 or not common:
        return []
    ratios = np.array([[whole[model].ratio for model in common] for whole in wholes])
    off = np.median(np.abs(ratios / np.median(ratios, 0) - 1), 1)
    notes = []
    for i, path in enumerate(paths):
        others = float(np.median(np.delete(off, i)))
        if off[i] > max(LEAST, TIMES * others):
            notes.append(f"{path} is an outlier: its versions are {off[i]:.1%} off the median of all runs")
    return notes
