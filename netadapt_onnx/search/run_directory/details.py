"""What a run leaves for its report: each layer before and after, what could not be pruned, the final training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from netadapt_onnx.common.json_output import UNREADABLE
from netadapt_onnx.graph.cost import LayerCost, cost
from netadapt_onnx.graph.folded_model import FoldedModel
from netadapt_onnx.search.latency_check import MeasuredLatency
from netadapt_onnx.search.run_directory.run import write_json
from netadapt_onnx.surgery.flatten_subgraphs import flatten
from netadapt_onnx.surgery.trace import Trace

DETAILS_FILE = "layers.json"


class LayerChange(msgspec.Struct, frozen=True):
    """A layer of the original (0 in the result: it is gone); `group` holds its output channels.

    `times_ms`: by resource what its unit takes by the table, before and after; a unit stands under its main layer.
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
    """What a run recorded; nothing for one that did not, or not readably: a report is no reason to fail."""
    try:
        return msgspec.json.decode((run / DETAILS_FILE).read_bytes(), type=Details)
    except (OSError, *UNREADABLE):
        return Details()


def write_training(run: Path, epochs: Sequence[TrainedEpoch]) -> None:
    """Record the epochs of the last final training."""
    write_json(run / DETAILS_FILE, Details(training=tuple(epochs)))


def write_details(run: Path, original: Trace, result: FoldedModel, gauges: Mapping[str, MeasuredLatency]) -> Path:
    """Record what became of each layer, beside the training that was recorded before; returns the file."""
    owner = {layer: group.name for group in original.groups for layer in group.layers}
    shapes = {**original.folded.shapes, **result.shapes}  # a table asks for what went with a branch as well
    times = {name: (gauge.spent_ms(original.folded.shapes), gauge.spent_ms(shapes)) for name, gauge in gauges.items()}
    left = {layer.name: layer for layer in _counted(result)}
    layers = []
    for layer in _counted(original.folded):
        now = left.get(layer.name)
        spent = {
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
                spent,
            )
        )
    blocked = [Blocked(g.name, g.channels, g.reason or "") for g in original.groups if not g.prunable]
    write_json(run / DETAILS_FILE, Details(tuple(layers), tuple(blocked), read_details(run).training))
    return run / DETAILS_FILE


def _counted(folded: FoldedModel) -> tuple[LayerCost, ...]:
    flat, _ = flatten(folded)
    return cost(flat.proto, flat.shapes).layers
