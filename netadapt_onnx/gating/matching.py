"""Matches the layers of one model with those of another.

Names alone do not suffice: exporters number them, and a layer put in front renumbers all. Neither do positions alone.
So the two sequences are aligned for the most in common (operator, shapes, name, values), as texts are.
"""

from __future__ import annotations

from collections.abc import Sequence

from netadapt_onnx.gating.records import Layer

Pair = tuple[Layer | None, Layer | None]

# Aligning takes the product of the two lengths; longer models are matched by name alone.
LARGEST_TABLE = 600_000


def match_layers(before: Sequence[Layer], after: Sequence[Layer]) -> list[Pair]:
    """Pair the layers in the order of `after`, then those that are gone; None stands where a model lacks a layer."""
    partner = _aligned(before, after) if len(before) * len(after) <= LARGEST_TABLE else {}
    partner |= _by_name(before, after, partner)
    gone = set(range(len(before))) - set(partner.values())
    pairs: list[Pair] = [(before[partner[j]] if j in partner else None, layer) for j, layer in enumerate(after)]
    return pairs + [(before[i], None) for i in sorted(gone)]


def _aligned(before: Sequence[Layer], after: Sequence[Layer]) -> dict[int, int]:
    """Index in `after` -> index in `before`, both rising, for the largest sum of likenesses."""
    rows = [[0] * (len(after) + 1)]
    for layer in before:
        above, row = rows[-1], [0]
        for j, other in enumerate(after):
            best = max(above[j + 1], row[j])
            joined = above[j] + _likeness(layer, other)
            row.append(joined if joined > best else best)
        rows.append(row)
    partner = {}
    i, j = len(before), len(after)
    while i and j:
        if rows[i][j] == rows[i - 1][j]:
            i -= 1
        elif rows[i][j] == rows[i][j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            partner[j] = i
    return partner


def _likeness(a: Layer, b: Layer) -> int:
    if a.op != b.op:
        return 0
    # A baseline has no shapes.
    shapes = a.params == b.params and (a.weights == b.weights or not a.weights or not b.weights)
    return 1 + 3 * shapes + 2 * (a.name == b.name) + 4 * (a.digest == b.digest != "")


def _by_name(before: Sequence[Layer], after: Sequence[Layer], partner: dict[int, int]) -> dict[int, int]:
    """Match the rest where name and operator are the same: branches that changed places."""
    matched = set(partner.values())
    places: dict[tuple[str, str], list[int]] = {}
    for i, layer in enumerate(before):
        if i not in matched:
            places.setdefault((layer.name, layer.op), []).append(i)
    pairs = {}
    for j, layer in enumerate(after):
        same = None if j in partner else places.get((layer.name, layer.op))
        if same:
            pairs[j] = same.pop(0)
    return pairs
