"""`layers.json` of a run, for its report: each layer before and after, blocked groups, and the final training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from netadapt_onnx.common.json_output import UNREADABLE, write_json
from netadapt_onnx.graph.cost import LayerCost, cost
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.search.predictor import ByLayer
from netadapt_onnx.surgery.flatten_subgraphs import flatten
from netadapt_onnx.surgery.trace import Trace

DETAILS_FILE = "layers.json"


class LayerChange(msgspec.Struct, frozen=True):
    """A layer of the original, before and after (0 after: the result does not have it).

    Attributes:
        name: The layer's name.
        op: Its operator.
        group: The group that holds its output channels.
        params: Its parameters.
        macs: Its multiply-accumulates.
        times_ms: By resource, the table's prediction for the unit whose main layer it is.
    """

    name: str
    op: str
    group: str
    params: tuple[int, int]
    macs: tuple[int, int]
    times_ms: Mapping[str, tuple[float, float]] = {}


class Blocked(msgspec.Struct, frozen=True):
    """A group that cannot be pruned, and why."""

    group: str
    channels: int
    reason: str


class TrainedEpoch(msgspec.Struct, frozen=True):
    """Mean loss and learning rate of an epoch of the final training."""

    epoch: int
    loss: float
    lr: float


class Details(msgspec.Struct, frozen=True):
    """`layers.json` of a run directory."""

    layers: tuple[LayerChange, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    training: tuple[TrainedEpoch, ...] = ()


def read_details(run: Path) -> Details:
    """The details that a run recorded; none where they are missing or unreadable: a report is no reason to fail."""
    try:
        return msgspec.json.decode((run / DETAILS_FILE).read_bytes(), type=Details)
    except (OSError, *UNREADABLE):
        return Details()


def write_training(run: Path, epochs: Sequence[TrainedEpoch]) -> None:
    """Record the epochs of the last final training."""
    write_json(run / DETAILS_FILE, Details(training=tuple(epochs)))


def write_details(run: Path, original: Trace, result: FoldedModel, by_layer: Mapping[str, ByLayer]) -> Path:
    """Record each layer before and after, together with the training that was recorded before.

    Args:
        run: The run directory.
        original: The original.
        result: The result.
        by_layer: By resource, what predicts the times of layers.

    Returns:
        The file.
    """
    owner = {layer: group.name for group in original.groups for layer in group.layers}
    shapes = {**original.folded.shapes, **result.shapes}  # a table needs those of removed branches, too
    times = {name: (predict(original.folded.shapes), predict(shapes)) for name, predict in by_layer.items()}
    layers_after = {layer.name: layer for layer in _layers(result)}
    layers = []
    for layer in _layers(original.folded):
        now = layers_after.get(layer.name)
        times_ms = {
            name: (before[layer.name], after.get(layer.name, 0.0) if now else 0.0)
            for name, (before, after) in times.items()
            if layer.name in before
        }
        layers.append(
            LayerChange(
                layer.name,
                layer.op,
                owner.get(layer.name, ""),
                (layer.params, now.params if now else 0),
                (layer.macs, now.macs if now else 0),
                times_ms,
            )
        )
    blocked = [Blocked(g.name, g.channels, g.reason or "") for g in original.groups if not g.prunable]
    write_json(run / DETAILS_FILE, Details(tuple(layers), tuple(blocked), read_details(run).training))
    return run / DETAILS_FILE


def _layers(folded: FoldedModel) -> tuple[LayerCost, ...]:
    flat, _ = flatten(folded)
    return cost(flat.proto, flat.shapes).layers
