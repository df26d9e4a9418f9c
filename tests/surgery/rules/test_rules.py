"""Every rule: whatever is kept, the pruned model equals the masked one.

`-k movement` tests the rules of `surgery/rules/movement.py`, and so on.
"""

from __future__ import annotations

import numpy as np
import pytest

import attention_cases  # noqa: F401 - registers its cases
import control_cases  # noqa: F401 - likewise
import quantised_cases  # noqa: F401 - likewise
import sampling_cases  # noqa: F401 - likewise
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.rules.registry import RULES
from netadapt_onnx.surgery.trace import trace
from netadapt_onnx.surgery.verify.prove import verify
from rule_cases import CASES, build

# These fix every channel they see, so their case has nothing to prune (the reason is asserted in test_surgery.py).
PINNING = {("com.microsoft", "GroupNorm"), ("", "GatherElements")}


def test_every_rule_has_a_case() -> None:
    assert set(RULES) == set(CASES)


def by_file(key: tuple[str, str], attention: str) -> object:
    """A case that is named after the file of its rule, the operator's domain and its name."""
    file = RULES[key].__module__.rpartition(".")[2]
    return pytest.param(*key, attention, id=f"{file}-{key[0] or 'onnx'}-{key[1]}-{attention}")


ATTENTION = [(domain, op) for domain, op in RULES if "Attention" in op or op == "MatMul"]


@pytest.mark.parametrize(
    ("domain", "op", "attention"),
    [*(by_file(key, "heads") for key in sorted(RULES)), *(by_file(key, "dims") for key in sorted(ATTENTION))],
)
def test_pruning_equals_masking(domain: str, op: str, attention: str) -> None:
    proto = build(domain, op)
    normalise(proto)
    traced = trace(fold(proto), Choices(attention))  # type: ignore[arg-type]
    if traced.folded.unrunnable:
        pytest.skip(traced.folded.unrunnable[:80])
    assert bool(traced.prunable) != ((domain, op) in PINNING)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        counts = {g.name: g.step * int(rng.integers(1, g.channels // g.step + 1)) for g in traced.prunable}
        order = {g.name: rng.random(g.channels) for g in traced.prunable}
        keep = select(traced, counts, lambda _, group: order[group.name])  # noqa: B023 - used at once
        result = verify(traced, keep, seed=seed)
        assert result.exact, (keep, result)
