"""Pools: units of one kind share their cells and one curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netadapt_onnx.profilers.fit import (
    Curve,
    Floats,
    Ints,
    Traits,
    choose_block,
    choose_stairs,
    choose_traits,
    fit_curve,
)
from netadapt_onnx.profilers.units import Unit

# A unit, the dimensions of its main layer in each measured version, and by kernel its microseconds (NaN: did not run).
Sample = tuple[Unit, Sequence[Sequence[int]], Mapping[str, Floats]]


@dataclass(frozen=True)
class Pool:
    """Units of one kind. `columns`: which dimensions of the main layer are its widths."""

    units: tuple[Unit, ...]
    columns: tuple[int, ...]
    curve: Curve

    def widths(self, unit: Unit, shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
        """The unit's widths in a version with these shapes."""
        dims = [d for name in unit.tensors for d in shapes[name]]
        return [dims[column] for column in self.columns]


@dataclass(frozen=True)
class _Draft:
    """A pool before its curve is fitted: its units' cells together."""

    units: tuple[Unit, ...]
    columns: tuple[int, ...]
    widths: Ints
    us: Mapping[str, Floats]


def pooled(samples: Sequence[Sample]) -> tuple[Pool, ...]:
    """Pools of a table's cells, each with its curve; what is true of a kernel everywhere is told from all pools."""
    by_kind: dict[tuple[object, ...], list[tuple[Unit, Ints, Mapping[str, Floats]]]] = {}
    for unit, dims, us in samples:
        rows = np.array(dims, np.int64)
        varies = (rows != rows[0]).any(0)
        fixed = tuple(None if v else int(d) for v, d in zip(varies, rows[0], strict=True))
        by_kind.setdefault((unit.kind, fixed), []).append((unit, rows, us))
    drafts = [_draft(members) for members in by_kind.values()]
    stairs = choose_stairs([(d.widths, d.us) for d in drafts])
    traits: dict[tuple[str, int], Traits] = {}
    for kernel in dict.fromkeys(kernel for d in drafts for kernel in d.us):
        cells = [(d.widths, d.us[kernel]) for d in drafts if kernel in d.us]
        block = choose_block(cells, stairs)
        for count in {widths.shape[1] for widths, _ in cells}:
            alike = [(widths, us) for widths, us in cells if widths.shape[1] == count]
            traits[kernel, count] = choose_traits(alike, stairs, block)
    return tuple(
        Pool(
            d.units,
            d.columns,
            fit_curve(d.widths, d.us, stairs, {kernel: traits[kernel, d.widths.shape[1]] for kernel in d.us}),
        )
        for d in drafts
    )


def _draft(members: Sequence[tuple[Unit, Ints, Mapping[str, Floats]]]) -> _Draft:
    rows = np.concatenate([rows for _, rows, _ in members])
    columns = _distinct(rows)
    kernels = dict.fromkeys(kernel for *_, us in members for kernel in us)
    us = {k: np.concatenate([us.get(k, np.full(len(rows), np.nan)) for _, rows, us in members]) for k in kernels}
    return _Draft(tuple(unit for unit, *_ in members), tuple(columns), rows[:, columns], us)


def _distinct(rows: Ints) -> list[int]:
    """Columns that vary, each once."""
    seen: dict[bytes, int] = {}
    for column in np.flatnonzero((rows != rows[0]).any(0)):
        seen.setdefault(rows[:, column].tobytes(), int(column))
    return list(seen.values())
