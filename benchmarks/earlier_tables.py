"""Tables of results that were measured before the benchmarks of the search went by preset; nothing writes them anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markdown_tables import table

Row = Mapping[str, Any]

METHODS = {
    "netadapt/blocks": "netadapt, `--allow-block-removal`",
    "uniform": "uniform widths, the largest within the budget",
}


def earlier_quality(rows: Sequence[Row]) -> str:
    """Accuracy of searches without a portfolio and of other ways at one budget, means over seeds."""
    headers = ["method", "test accuracy", "max - min", "points lost", "before training", "measured latency", "macs",
               "search (s)"]  # fmt: skip
    return table(
        headers,
        [
            [
                METHODS.get(row["method"], row["method"]),
                *(f"{100 * row[key]:.2f}" for key in ("test", "spread", "lost", "before_training")),
                ", ".join(f"{share:.3f}x" for share in row["latency"]),
                f"{row['macs']:.3f}x",
                f"{row['search_s']:.0f}",
            ]
            for row in rows
        ],
    )


def ranks(rows: Sequence[Row]) -> str:
    """Seconds of an iteration by the way of ranking proposals."""
    base = {row["workers"]: row["accepted_s"] for row in rows if row["rank"] == "reconstruct"}
    return table(
        ["rank", "s to rank", "s per accepted model", "beside reconstruct", "macs", "test accuracy"],
        [
            [
                row["rank"],
                f"{row['ranking_s']:.1f}",
                f"{row['accepted_s']:.1f}",
                f"{row['accepted_s'] / base[row['workers']]:.1f}x" if row["workers"] in base else "",
                f"{row['macs']:.3f}x",
                f"{100 * row['accuracy']:.2f}",
            ]
            for row in rows
        ],
    )
