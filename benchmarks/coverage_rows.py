"""The results of the coverage benchmark as rows to record: one for each case, and one for each pruner and suite."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

Result = dict[str, Any]
Row = dict[str, Any]

OURS = "netadapt-onnx"


def case_rows(results: Sequence[Result]) -> list[Row]:
    """The rows of one suite, a case each."""
    keys = ("model", "pruner", "exporter", "ratio")
    return [{key: result["case"][key] for key in keys} | result["outcome"] for result in results]


def summary_rows(results: Sequence[Result]) -> list[Row]:
    """A row for each suite, pruner and exporter: how many results are smaller and right, and medians over those."""
    rows = []
    for suite in dict.fromkeys(result["case"]["suite"] for result in results):
        of_suite = [result for result in results if result["case"]["suite"] == suite]
        for pruner, exporter in _columns(of_suite):
            column = [result for result in of_suite if _column(result) == (pruner, exporter)]
            smaller = [result["outcome"] for result in column if result["outcome"].get("smaller")]
            equal = Counter(outcome["equal"] for outcome in smaller)
            rows.append(
                {
                    "suite": suite,
                    "ratios": sorted({result["case"]["ratio"] for result in column}),
                    "pruner": pruner,
                    "exporter": exporter,
                    "models": len(column),
                    "smaller": len(smaller),
                    "equal": equal[True],
                    "different": equal[False],
                    "unknown": equal[None],
                    "macs": _median(smaller, "macs"),
                    "seconds": _median(smaller, "seconds"),
                    "proof_seconds": _median(smaller, "proof_seconds"),
                }
            )
    return rows


def _column(result: Result) -> tuple[str, str]:
    return result["case"]["pruner"], result["case"]["exporter"]


def _columns(results: Sequence[Result]) -> list[tuple[str, str]]:
    columns = dict.fromkeys(map(_column, results))
    return sorted(columns, key=lambda column: (column[0] != OURS, column[0], column[1] != "legacy"))


def _median(outcomes: Sequence[Result], key: str) -> float | None:
    values = [outcome[key] for outcome in outcomes if outcome.get(key) is not None]
    return statistics.median(values) if values else None
