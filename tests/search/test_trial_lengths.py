"""What is spent on models only to compare them: as planned on cheap networks, without training on costly ones."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

from models import residual
from netadapt_onnx.search.first_jump import CHEAP_SHARE, COSTLY_SHARE
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.prepared_model import PreparedModel
from netadapt_onnx.search.trial_lengths import TrialLengths, trial_lengths
from tracing import trace_model

OPTIONS = AdaptOptions(budget=("macs=0.5x",), finalists=3)


def lengths(size: int, samples: int | None = 1000, options: AdaptOptions = OPTIONS) -> TrialLengths:
    """Those of a residual network of 64 channels on pictures of a size."""
    data = None if samples is None else SimpleNamespace(train=range(samples))
    prepared = SimpleNamespace(data=data, trace=trace_model(residual(64, size=size)))
    return trial_lengths(cast(PreparedModel, prepared), options)


def test_a_cheap_network_is_trained_for_as_long_as_planned() -> None:
    planned = TrialLengths(OPTIONS.short_term_steps, OPTIONS.finalists, OPTIONS.portfolio_steps)
    assert lengths(size=8) == planned
    assert min(planned.short_term, planned.finalists, planned.portfolio) > 0


def test_of_a_costly_network_models_are_compared_untrained() -> None:
    """Its finalists are solved in order, which takes no training."""
    assert lengths(size=1024) == TrialLengths(0, OPTIONS.finalists, 0, COSTLY_SHARE)


def test_without_samples_there_is_nothing_to_train_with() -> None:
    assert lengths(size=8, samples=None) == TrialLengths(0, 0, 0, COSTLY_SHARE)


def test_curves_go_the_whole_way_where_a_network_is_cheap_to_train_whether_it_will_be_or_not() -> None:
    untrained = replace(OPTIONS, final_epochs=0)
    assert lengths(size=8, options=untrained).start_share == lengths(size=8).start_share == CHEAP_SHARE
    assert lengths(size=1024, options=untrained).start_share == COSTLY_SHARE < CHEAP_SHARE
    for size in (8, 1024):
        assert lengths(size, options=replace(OPTIONS, start_share=0.5)).start_share == 0.5
