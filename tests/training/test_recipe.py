"""Learning rates rise, and fall to nearly nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from netadapt_onnx.training.recipe import Recipe, cosine, one_cycle, optimizer
from netadapt_onnx.training.torch_graph import TorchGraph
from training_cases import network


def test_schedules_end_near_zero() -> None:
    assert cosine(0, 100, 0.1) == pytest.approx(0.1)
    assert one_cycle(99, 100, 0.1) < 0.001 > cosine(99, 100, 0.1)
    assert cosine(50, 100, 0.1) == pytest.approx(0.05, rel=0.01)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [one_cycle(step, 100, 0.1) for step in range(100)]
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert int(np.argmax(rates)) == 20
    assert all(a < b for a, b in pairwise(rates[:21]))
    assert all(a > b for a, b in pairwise(rates[20:]))
    assert rates[-1] < 0.001


def test_weight_decay_spares_norms_and_biases() -> None:
    graph = TorchGraph(network())
    for recipe, decay in ((Recipe(), 5e-4), (Recipe("adamw"), 0.05), (Recipe(weight_decay=0.1), 0.1)):
        decayed = {
            id(p): group["weight_decay"] for group in optimizer(graph, recipe).param_groups for p in group["params"]
        }
        for name, weight in graph.weights.items():
            assert decayed[id(weight)] == (decay if graph.kinds[name] == "weight" else 0.0)
