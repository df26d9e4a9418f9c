"""Sets of labels, against a plain search for connected labels."""

from __future__ import annotations

import numpy as np
import pytest

from netadapt_onnx.surgery.union_find import UnionFind, components


def connected(count: int, pairs: np.ndarray) -> list[int]:
    """The least label that each label is tied to, by following pairs until nothing changes."""
    least = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            least[a] = least[b] = min(least[a], least[b])
    return least


@pytest.mark.parametrize("seed", range(20))
def test_roots_are_the_least_labels_of_what_is_connected(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 60))
    pairs = rng.integers(1, count + 1, (int(rng.integers(0, count)), 2))
    sets = UnionFind()
    assert sets.fresh(count).tolist() == list(range(1, count + 1))
    for part in np.array_split(pairs, 3):
        sets.tie(part[:, 0], part[:, 1])
    assert sets.all_roots().tolist() == connected(count + 1, pairs)


def test_new_labels_are_alone_also_beyond_the_first_thousand() -> None:
    sets = UnionFind()
    first, second = sets.fresh(3), sets.fresh(5000)
    sets.tie(first, first[::-1])
    assert sets.roots(first).tolist() == [1, 2, 1]
    assert np.array_equal(sets.roots(second), second)
    assert len(sets) == 5004


def test_no_label_is_its_own_root() -> None:
    sets = UnionFind()
    sets.fresh(4)
    assert sets.roots(np.array([[0, 1], [2, 0]])).tolist() == [[0, 1], [2, 0]]


def test_components_count_what_hangs_together_across_the_other_axes() -> None:
    labels = np.array([[1, 2], [2, 3], [4, 5]])
    assert components(labels, 0) == 2  # rows 0 and 1 share label 2
    assert components(labels, 1) == 1  # columns 0 and 1 do
    assert components(np.arange(12).reshape(3, 4), 0) == 3
