"""Tables as a search uses them."""

from __future__ import annotations

import pytest

from netadapt_onnx.profilers.table.build import DEFAULT_PLAN
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.search.tables import table_plan


@pytest.mark.parametrize(("models", "share"), [(None, 1.0), (64, 1.0), (32, 0.5), (16, 0.25), (128, 1.0)])
def test_a_table_of_fewer_models_gets_as_much_less_time(models: int | None, share: float) -> None:
    plan = table_plan(AdaptOptions(budget=("latency=0.5x",), table_models=models, seed=3))
    assert (plan.models, plan.seed) == (models, 3)
    assert plan.time_cap_s == share * DEFAULT_PLAN.time_cap_s
