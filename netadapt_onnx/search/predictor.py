"""The resources of the model at any widths, without building it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from onnx import TensorProto

from netadapt_onnx.common.resources import COUNTED
from netadapt_onnx.graph.cost import CostModel
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.graph.lazy_weights import unread_weights
from netadapt_onnx.graph.weightless import with_stand_ins
from netadapt_onnx.search.allowed_counts import removed_branches
from netadapt_onnx.search.proposals import Widths
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.residual_branches import Branch, same_groups, without
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.surgery.trace import trace as traced

Shapes = Mapping[str, tuple[int, ...]]
# A resource that is not counted, by the model's tensor shapes.
Predicted = Callable[[Shapes], float]
# The predicted resource of every unit by its main layer's name; empty if unknown.
ByLayer = Callable[[Shapes], Mapping[str, float]]


@dataclass(frozen=True)
class Predictor:
    """Predicts the resources of the model: those that can be counted, and those that tables predict.

    Of a model without some of the branches a predicted resource is less by that of their layers or, where a table has
    no layers, by their share of the macs.

    Attributes:
        trace: The traced model.
        extra_bytes: What a written file holds besides the graph.
        predicted: By resource, what predicts it.
        branches: The branches that may be removed.
        by_layer: By resource, what predicts it for every layer.
    """

    trace: Trace
    extra_bytes: int = 0
    predicted: Mapping[str, Predicted] = field(default_factory=dict)
    branches: tuple[Branch, ...] = ()
    by_layer: Mapping[str, ByLayer] = field(default_factory=dict)
    _amounts: dict[tuple[int, ...], dict[str, float]] = field(init=False, default_factory=dict)
    _counts: dict[frozenset[str], tuple[Trace, CostModel, bool]] = field(init=False, default_factory=dict)

    def __call__(self, widths: Widths) -> dict[str, float]:
        """The resources at given widths by name, in base units."""
        key = tuple(widths.values())
        if key not in self._amounts:
            self._amounts[key] = self._predict(widths)
        return self._amounts[key]

    def _predict(self, widths: Widths) -> dict[str, float]:
        removed = removed_branches(self.branches, widths)
        # A removed branch costs nothing, however wide it was: its groups keep their channels in every prediction.
        unused = {name for branch in self.branches if branch.name in removed for name in branch.groups}
        widths = {**widths, **{name: self.trace.group(name).channels for name in unused}}
        shapes, amounts = self._count(frozenset(), widths)
        predicted = {name: predict(shapes) for name, predict in self.predicted.items()}
        if removed:
            all_macs = amounts["macs"]
            amounts = self._count(removed, widths)[1]
            macs_share = amounts["macs"] / all_macs
            predicted = {
                name: amount * self._share_without(name, shapes, removed, macs_share)
                for name, amount in predicted.items()
            }
        return amounts | predicted

    @cached_property
    def _light(self) -> tuple[FoldedModel, Mapping[str, TensorProto]]:
        """The model with stand-ins for the weights of which nothing looks at the values, and these weights by name."""
        folded = self.trace.folded
        proto, weights = with_stand_ins(folded.proto, unread_weights(folded.proto))
        return replace(folded, proto=proto), weights

    def _share_without(self, resource: str, shapes: Shapes, removed: frozenset[str], macs_share: float) -> float:
        """The share of a predicted resource that the model uses without some branches."""
        has_layers = resource in self.by_layer and math.isfinite(macs_share)
        layers = self.by_layer[resource](shapes) if has_layers else {}
        nodes = frozenset[str]().union(*(branch.nodes for branch in self.branches if branch.name in removed))
        less = sum(amount for layer, amount in layers.items() if layer in nodes)
        return 1 - less / sum(layers.values()) if layers else macs_share

    def _count(self, removed: frozenset[str], widths: Widths) -> tuple[Shapes, dict[str, float]]:
        """The shapes and counted resources without some branches.

        The resources are infinite where the model's groups would not be the original's.
        """
        if removed not in self._counts:
            light, weights = self._light
            # Each of these models is a copy: dozens of them with the weights of EfficientNet-Lite0 took 770 MB.
            trace = traced(without(light, removed), self.trace.labels.choices) if removed else self.trace
            possible = not removed or same_groups(self.trace, trace)
            self._counts[removed] = trace, CostModel(trace.flat.proto, weights), possible
        trace, count, possible = self._counts[removed]
        if not possible:
            return {}, dict.fromkeys(COUNTED, math.inf)
        groups = {group.name for group in trace.groups}
        cut = select(trace, {name: width for name, width in widths.items() if name in groups}, "first")
        shapes = trace.resized_shapes(cut)
        amounts = {name: float(value) for name, value in count(shapes).resources.items()}
        return shapes, amounts | {"size": amounts["size"] + self.extra_bytes}
