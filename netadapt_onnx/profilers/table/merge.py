"""Merges tables of one model and one device: each cell becomes the median of theirs, and outlying runs are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.profilers.statistics import mean_load, pool_ratios, timing_of_sessions
from netadapt_onnx.profilers.table.file import (
    BEGINNING,
    Cell,
    EndToEndTime,
    Header,
    OriginalTime,
    Record,
    Reference,
    header_differences,
    header_of_file,
    read,
    reference_of_file,
)

# A run is an outlier if its models are off the median run by so many times what the others are, and by this much.
TIMES, LEAST = 3.0, 0.02

# The model's number, the layers, the kernel, and which of several such kernels.
CellKey = tuple[int, tuple[str, ...], str, int]
TimeByModel = Mapping[int, EndToEndTime]


@dataclass(frozen=True)
class _Run:
    """A complete table of one run. `cells` all have times."""

    header: Header
    cells: Mapping[CellKey, Cell]
    end_to_end: Sequence[EndToEndTime]
    reference: Reference


def is_table(path: Path) -> bool:
    """Whether a file begins as a table does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING


def merge_tables(paths: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Merge the tables of several runs into one; cells are compared at the speed that the uncut model had meanwhile.

    Returns:
        The records of the table, and what users should know of the runs.

    Raises:
        NetadaptError: a table is not complete, or they are of different models, devices or plans, which is named.
    """
    runs = [_read_run(path) for path in paths]
    header = runs[0].header
    for path, other in zip(paths[1:], runs[1:], strict=True):
        if unlike := header_differences(header, other.header, "tool"):
            raise NetadaptError(
                f"{path} cannot be merged with {paths[0]}: {'; '.join(unlike)}",
                hint="merge tables of one model, device and plan",
                code="other-table",
            )
    times = [{t.model: t for t in _at_speed_of(run.end_to_end, runs[0].end_to_end)} for run in runs]
    cells = _cell_shares(runs, times)
    records: list[Record] = [header]
    for model in sorted(set().union(*times)):
        repeats = [time_by_model[model] for time_by_model in times if model in time_by_model]
        speed_us = float(np.median([repeat.reference_us for repeat in repeats]))
        for key in [key for key in cells if key[0] == model]:
            us = round(float(np.median([share for _, share in cells[key]])) * speed_us, 3)
            records.append(msgspec.structs.replace(cells[key][0][0], us=us))
        records.append(_join_times(repeats, speed_us))
    records.append(_join_references([run.reference for run in runs]))
    return records, _outliers(paths, times)


def _cell_shares(runs: Sequence[_Run], times: Sequence[TimeByModel]) -> dict[CellKey, list[tuple[Cell, float]]]:
    """Each cell of all runs, and its time relative to the uncut model's kernels in the same rounds."""
    cells: dict[CellKey, list[tuple[Cell, float]]] = {}
    for run, time_by_model in zip(runs, times, strict=True):
        for key, cell in run.cells.items():
            if key[0] in time_by_model and cell.us is not None:
                cells.setdefault(key, []).append((cell, cell.us / time_by_model[key[0]].reference_us))
    return cells


def _join_references(references: Sequence[Reference]) -> Reference:
    """The uncut model's time of all runs: the median of theirs, between the lowest and the highest of their ends."""
    return Reference(
        timing_of_sessions([reference.median_ms for reference in references]).median_ms,
        (min(r.ci95[0] for r in references), max(r.ci95[1] for r in references)),
        sum(r.sessions for r in references),
        "; ".join(dict.fromkeys(r.stopped for r in references)),
        sum(r.seconds for r in references),
        _join_original_times(references),
    )


def _join_original_times(references: Sequence[Reference]) -> OriginalTime | None:
    """The times of one original file together: of that which the first table knows that knows any."""
    originals = [reference.as_given for reference in references if reference.as_given is not None]
    alike = [original.ratio for original in originals if original.sha256 == originals[0].sha256]
    return OriginalTime(originals[0].sha256, pool_ratios(alike)) if originals else None


def _read_run(path: Path) -> _Run:
    records = read(path)
    reference = reference_of_file(path, records)
    cells: dict[CellKey, Cell] = {}
    for cell in records:
        if not isinstance(cell, Cell):
            continue
        if cell.us is None:
            raise NetadaptError(f"{path} has no times of kernels to merge", hint="build one longer", code="table")
        key = (cell.model, tuple(cell.layers), cell.kernel, 0)
        while key in cells:
            key = (*key[:3], key[3] + 1)
        cells[key] = cell
    end_to_end = [record for record in records if isinstance(record, EndToEndTime)]
    return _Run(header_of_file(path, records), cells, end_to_end, reference)


def _at_speed_of(times: Sequence[EndToEndTime], others: Sequence[EndToEndTime]) -> list[EndToEndTime]:
    """A run's models, with the uncut model's sessions as if it had run at another run's speed: their spread stays."""
    own, target = (
        float(np.median([t for record in run for t in record.reference_sessions_ms])) for run in (times, others)
    )
    scaled = ([t * target / own for t in record.reference_sessions_ms] for record in times)
    return [msgspec.structs.replace(r, reference_median_ms=ms) for r, ms in zip(times, scaled, strict=True)]


def _join_times(repeats: Sequence[EndToEndTime], reference_us: float) -> EndToEndTime:
    """One model's sessions of all runs together."""
    return EndToEndTime(
        repeats[0].model,
        [ms for r in repeats for ms in r.ms],
        [ms for r in repeats for ms in r.reference_ms],
        reference_us,
        sum(r.rounds for r in repeats),
        sum(r.seconds for r in repeats),
        max(r.interval for r in repeats),
        [ms for r in repeats for ms in r.reference_median_ms],
        *mean_load((r.others, r.cores) for r in repeats),
    )


def _outliers(paths: Sequence[Path], times: Sequence[TimeByModel]) -> list[str]:
    """A line for every run whose models are off the median run; of two runs either may be wrong."""
    common = sorted(set.intersection(*(set(time_by_model) for time_by_model in times)))
    if len(times) < 3 or not common:
        return []
    ratios = np.array([[time_by_model[model].ratio for model in common] for time_by_model in times])
    off = np.median(np.abs(ratios / np.median(ratios, 0) - 1), 1)
    notes = []
    for i, path in enumerate(paths):
        others = float(np.median(np.delete(off, i)))
        if off[i] > max(LEAST, TIMES * others):
            notes.append(f"{path} is an outlier: its versions are {off[i]:.1%} off the median of all runs")
    return notes
