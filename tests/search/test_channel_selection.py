"""Which channels stay at given widths, of the current model and of the original."""

from __future__ import annotations

import numpy as np
import pytest

import models
from criterion_cases import images
from netadapt_onnx.search.channel_selection import BaseModel, ChannelSelector
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.surgery.criteria.obs import eliminations, obs_criterion
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.reconstruct.gram import own_gram_matrices
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace
from tracing import trace_model


def test_the_originals_order_serves_every_cut() -> None:
    """Cut step by step, or at once, or with channels given back: a group keeps the channels that `obs` ranks first."""
    looked_at: list[Trace] = []

    def inputs() -> dict[str, np.ndarray]:
        looked_at.append(traced)
        return {"image": images(64)}

    traced = trace_model(models.residual(8))
    criterion = obs_criterion(inputs)
    original = BaseModel(traced, {})
    selector = ChannelSelector(original, (), criterion)
    widths = {group.name: group.channels for group in traced.prunable}
    current = original
    for changed in ({"conv1": 6}, {"conv2": 5}, {"conv1": 3, "conv2": 4}, {"conv2": 7}):
        widths |= changed
        cut = selector.cut(current, widths)
        proto = resize(cut.base.trace, cut.keep)
        current = BaseModel(trace_model(proto), cut.kept)
        for name in changed:
            expected = select(traced, {name: widths[name]}, criterion)[name]
            np.testing.assert_array_equal(current.kept[name], expected)
    assert len(looked_at) == 1


def test_eliminations_that_are_at_hand_select_without_a_look_at_inputs() -> None:
    traced = trace_model(models.residual(8))
    inputs = {"image": images(64)}
    ordered = eliminations(traced, own_gram_matrices(traced, inputs))

    def no_inputs() -> dict[str, np.ndarray]:
        raise AssertionError

    selector = ChannelSelector(BaseModel(traced, {}), (), obs_criterion(no_inputs), lambda: ordered)
    widths = {group.name: group.channels // 2 for group in traced.prunable}
    for name, kept in selector.cut(BaseModel(traced, {}), widths).keep.items():
        np.testing.assert_array_equal(kept, ordered[name].kept(widths[name]))
    # Other criteria are asked themselves.
    by_norm = ChannelSelector(BaseModel(traced, {}), (), "l2", lambda: ordered).cut(BaseModel(traced, {}), widths)
    for name, kept in select(traced, widths, "l2").items():
        np.testing.assert_array_equal(by_norm.keep[name], kept)


@pytest.mark.parametrize(
    ("options", "has_inputs", "criterion"),
    [
        ({}, True, "obs"),
        ({}, False, "l2"),
        ({"strategy": "knapsack"}, True, "taylor"),
        ({"criterion": "fisher"}, True, "fisher"),
        ({"criterion": "l1", "strategy": "netadapt"}, False, "l1"),
    ],
)
def test_the_criterion_that_is_left_open_suits_strategy_and_inputs(
    options: dict[str, str], has_inputs: bool, criterion: str
) -> None:
    chosen = AdaptOptions(budget=("macs=0.5x",), **options)  # type: ignore[arg-type]
    assert chosen.criterion == options.get("criterion", "auto")
    assert chosen.criterion_for(has_inputs=has_inputs) == criterion
