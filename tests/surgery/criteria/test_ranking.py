"""Ranking over all groups at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import models
from netadapt_onnx.api.prune import prune
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.model import load, save
from netadapt_onnx.surgery.criteria.ranking import at_share, counts_after, removal_order
from netadapt_onnx.surgery.criteria.selection import importance, select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import trace
from tracing import trace_model


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("step", [None, 4])
def test_a_global_ratio_is_a_share_of_all_channels_together(ratio: float, step: int | None) -> None:
    traced = trace_model(models.plain((8, 16, 22)))
    scores = importance(traced, normalised=True)
    counts = at_share(traced, removal_order(traced, step=step), ratio)
    total = sum(g.channels for g in traced.prunable)
    gone = total - sum(counts.values())
    assert gone <= ratio * total
    assert all(n >= traced.group(name).floor for name, n in counts.items())
    assert all(n % (step or 1) == 0 or n == traced.group(name).channels for name, n in counts.items())
    if step is None and ratio <= 0.8:  # beyond that floors hold channels back
        assert gone == int(ratio * total)
        keep = select(traced, counts)
        lost = [np.delete(scores[name], kept) for name, kept in keep.items()]
        remaining = [scores[name][keep[name]] if name in keep else scores[name] for name in scores]
        if lost:
            assert np.concatenate(lost).max() <= np.concatenate(remaining).min()


def test_tied_channels_leave_together_and_count_as_many() -> None:
    traced = trace_model(models.grouped(groups=4))
    stepped = [g for g in traced.prunable if g.step > 1]
    assert stepped
    for share in (0.2, 0.5, 0.7):
        counts = at_share(traced, removal_order(traced), share)
        assert all(counts[g.name] % g.step == 0 for g in stepped)
        trace(fold(resize(traced, select(traced, counts))))
    everything = counts_after(traced, removal_order(traced))
    assert everything == {g.name: g.floor for g in traced.prunable}


def test_a_global_budget_is_met_with_as_few_blocks_as_possible(tmp_path: Path) -> None:
    model = save(models.plain((8, 12, 16)), tmp_path / "model.onnx")
    result = prune(model, budget=["macs=0.5x", "params=0.6x"], global_=True)
    assert result.met
    assert result.after.macs <= result.before.macs / 2
    assert result.after.params <= 0.6 * result.before.params
    traced = trace_model(load(model).proto)
    order = removal_order(traced)
    cuts = [counts_after(traced, order[:n]) for n in range(len(order))]
    chosen = {name: after for name, (_, after) in result.groups.items()}
    larger = prune(model, keep=dict(cuts[cuts.index(chosen) - 1]))
    assert larger.after.macs > result.before.macs / 2 or larger.after.params > 0.6 * result.before.params
    missed = prune(model, budget="macs=0.0001x", global_=True)
    assert not missed.met
    assert all(after == 1 for _, after in missed.groups.values())
