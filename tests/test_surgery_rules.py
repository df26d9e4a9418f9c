"""Every rule: whatever is kept, the pruned model equals the masked one."""

from __future__ import annotations

import numpy as np
import pytest

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.folding import fold
from netadapt_onnx.normalise import normalise
from netadapt_onnx.surgery import select, trace, verify
from netadapt_onnx.surgery.rules import RULES
from rule_cases import CASES, build

# These fix every channel they see, so their case has nothing to prune (the reason is asserted in test_surgery.py).
PINNING = {("com.microsoft", "GroupNorm"), ("", "GatherElements")}


def test_every_rule_has_a_case() -> None:
    assert set(RULES) == set(CASES)


@pytest.mark.parametrize(("domain", "op"), sorted(RULES), ids=lambda value: value or "onnx")
def test_pruning_equals_masking(domain: str, op: str) -> None:
    proto = build(domain, op)
    normalise(proto)
    try:
        traced = trace(fold(proto))
    except NetadaptError as error:
        if error.code == "unloadable":
            pytest.skip(f"onnxruntime has no kernel: {error.message[:80]}")
        raise
    assert bool(traced.prunable) != ((domain, op) in PINNING)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        counts = {g.name: g.step * int(rng.integers(1, g.channels // g.step + 1)) for g in traced.prunable}
        order = {g.name: rng.random(g.channels) for g in traced.prunable}
        keep = select(traced, counts, lambda _, group: order[group.name])  # noqa: B023 - used at once
        result = verify(traced, keep, seed=seed)
        assert result.exact, (keep, result)
