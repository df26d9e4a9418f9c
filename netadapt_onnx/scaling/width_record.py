"""Widths recorded while a network is pruned: what scaling laws are fitted to."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from netadapt_onnx.common.missing_files import missing_file
from netadapt_onnx.errors import NetadaptError

TAU = "params"


@dataclass(frozen=True)
class WidthRecord:
    """`widths` (rows, groups) of the groups `names`, and `tau` (rows,): the network's parameters at those widths."""

    names: tuple[str, ...]
    widths: np.ndarray
    tau: np.ndarray

    def named(self, groups: Mapping[str, int]) -> WidthRecord:
        """The same record with the group names of a model.

        Args:
            groups: The widths of the model's groups, by name. Columns are matched by name or, if none but their number
                agrees, by order.

        Raises:
            NetadaptError: Neither names nor number agree.
        """
        if set(self.names) == set(groups):
            order = [self.names.index(name) for name in groups]
            return WidthRecord(tuple(groups), self.widths[:, order], self.tau)
        if len(self.names) == len(groups):
            return WidthRecord(tuple(groups), self.widths, self.tau)
        missing = next((name for name in groups if name not in self.names), "")
        raise NetadaptError(
            f"the record has {len(self.names)} groups, the model {len(groups)}; '{missing}' is not recorded",
            hint="record the model that is to be scaled",
            code="other-model",
        )


def read_record(file: Path) -> WidthRecord:
    """Read a CSV file: a header of group names and `params`, and a row for every removal of filters.

    Raises:
        NetadaptError: The file is not such a table; the message names the line.
    """
    if not file.is_file():
        raise missing_file(file, flag="--fit", code="record")
    try:
        with file.open(newline="") as lines:
            rows = list(csv.reader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NetadaptError(f"{file} is not readable as CSV: {error}", code="record") from error
    header = [name.strip() for name in rows[0]] if rows else []
    if TAU not in header or len(header) < 2 or len(set(header)) < len(header):
        raise NetadaptError(f"{file}: the first line names the groups and '{TAU}', once each", code="record")
    values = np.zeros((len(rows) - 1, len(header)))
    for number, row in enumerate(rows[1:], 2):
        try:
            cells = [float(cell) for cell in row]
            if len(cells) != len(header):
                raise ValueError(len(cells))
            values[number - 2] = cells
        except ValueError as error:
            raise NetadaptError(f"{file}, line {number}: expected {len(header)} numbers", code="record") from error
        if not (np.isfinite(values[number - 2]).all() and (values[number - 2] > 0).all()):
            raise NetadaptError(f"{file}, line {number}: widths and {TAU} are above zero", code="record")
    column = header.index(TAU)
    names = tuple(name for name in header if name != TAU)
    return WidthRecord(names, np.delete(values, column, axis=1), values[:, column])
