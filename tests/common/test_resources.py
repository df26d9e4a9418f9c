"""Names of resources and fields of results go together in one place."""

from __future__ import annotations

from dataclasses import fields

import models
from netadapt_onnx.common.resources import COUNTED, FIELDS, RESOURCES, Resources, amounts
from netadapt_onnx.graph.cost import cost
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise


def test_every_resource_has_a_field_of_results() -> None:
    assert tuple(FIELDS) == RESOURCES
    assert set(FIELDS.values()) == {field.name for field in fields(Resources)}


def test_what_is_counted_is_shown_under_the_names_of_budgets() -> None:
    proto = models.plain((8,))
    normalise(proto)
    counted = cost(proto, fold(proto).shapes)
    resources = counted.to_resources(size_bytes=123, latency_ms=4.5)
    assert amounts(resources) == {**counted.resources, "size": 123}
    assert amounts(resources, RESOURCES)["latency"] == 4.5
    assert tuple(amounts(resources)) == COUNTED
