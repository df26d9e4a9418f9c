"""What weight decay moves."""

from __future__ import annotations

from netadapt_onnx.training.optimizer import optimizer
from netadapt_onnx.training.recipe import Recipe
from netadapt_onnx.training.torch_graph import TorchGraph
from training_cases import network


def test_weight_decay_spares_norms_and_biases() -> None:
    graph = TorchGraph(network())
    for recipe, decay in ((Recipe(), 5e-4), (Recipe("adamw"), 0.05), (Recipe(weight_decay=0.1), 0.1)):
        decayed = {
            id(p): group["weight_decay"] for group in optimizer(graph, recipe).param_groups for p in group["params"]
        }
        for name, weight in graph.weights.items():
            assert decayed[id(weight)] == (decay if graph.kinds[name] == "weight" else 0.0)
