"""A network made ready for training, or refused before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import torch

from netadapt_onnx.data.batch_layout import samples_first
from netadapt_onnx.data.dataset import Dataset
from netadapt_onnx.errors import NetadaptError, invalid_data
from netadapt_onnx.training import batchnorm
from netadapt_onnx.training.loss import TaskLoss, task_loss
from netadapt_onnx.training.memory import Footprint, footprint, probed_rows
from netadapt_onnx.training.replicas import one_thread, tensors
from netadapt_onnx.training.torch_graph import TorchGraph

CALIBRATION_SAMPLES = 256


@dataclass(frozen=True)
class TrainableNetwork:
    """A network as it is trained.

    Attributes:
        proto: The model, with BatchNorms in place of those that its export folded away.
        graph: The same in torch.
        needs: What a batch takes.
        loss: What training minimises.
    """

    proto: onnx.ModelProto
    graph: TorchGraph
    needs: Footprint
    loss: TaskLoss


def trainable_network(
    proto: onnx.ModelProto,
    dataset: Dataset,
    *,
    uncut: onnx.ModelProto | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> TrainableNetwork:
    """Prepare a model for training.

    Args:
        proto: The model, normalised.
        dataset: Its `train` split is trained on.
        uncut: The model that `proto` was cut from, whose statistics its BatchNorms get; None: those of its own layers.
        batch_size: Samples a step, if that is known.
        seed: Draws the samples that BatchNorms are calibrated on.

    Raises:
        NetadaptError: Unsupported operators, a batch of one sample with BatchNorm, a batch that cannot be run, outputs
            that no weight moves.
    """
    split = dataset.train
    alone = batch_size == 1 or len(split) == 1
    unfolded = proto if alone else batchnorm.unfold(proto, split.sample(CALIBRATION_SAMPLES, seed), uncut)
    graph = TorchGraph(unfolded)
    if alone:
        _require_no_statistics(graph)
    needs = footprint(graph, split)
    if needs.only_batch == 1 and not alone:
        unfolded, graph = proto, TorchGraph(proto)
        _require_no_statistics(graph, needs)
        needs = footprint(graph, split)
    _require_gradient(graph, needs, dataset)
    return TrainableNetwork(unfolded, graph, needs, task_loss(unfolded, needs.shapes, dataset))


def require_trainable(proto: onnx.ModelProto, dataset: Dataset) -> None:
    """Check that a model can be trained on these data, before a search that would only learn it at its end.

    Raises:
        NetadaptError: Operators without a torch function, a batch that cannot be run, outputs that no weight moves.
    """
    split = dataset.train
    with one_thread():
        graph = TorchGraph(proto)
        needs = footprint(graph, split)
        if needs.only_batch == 1 or len(split) == 1:
            _require_no_statistics(graph, needs)
        _require_gradient(graph, needs, dataset)


def _require_gradient(graph: TorchGraph, needs: Footprint, dataset: Dataset) -> None:
    """Raise NetadaptError where no weight moves an output; a loss or a training of the user's may look elsewhere."""
    user, layout = dataset.user, dataset.train.layout
    if user.training is not None or user.loss is not None:
        return
    mode = graph.training
    with torch.enable_grad():
        outputs = graph.eval()(tensors(dataset.train.batch(probed_rows(dataset.train, needs.only_batch))))
    graph.train(mode)
    scored = samples_first(outputs, layout)
    if any(value.requires_grad for value in scored.values()):
        return
    omitted = {} if layout is None else layout.omitted
    others = "".join(f"; '{name}' is left out: {why}" for name, why in omitted.items())
    raise NetadaptError(
        f"training learns nothing from {', '.join(map(repr, scored)) or 'this model'}: no weight moves it{others}",
        hint="whole numbers (a class, a count) have no gradient: export the scores in front of them as well",
        code="unsupported",
    )


def _require_no_statistics(graph: TorchGraph, needs: Footprint | None = None) -> None:
    if not graph.statistics:
        return
    if needs is not None and needs.only_batch == 1:
        raise NetadaptError(
            "the model runs on one sample at a time, and batches of one leave BatchNorm nothing to normalise by",
            hint="export it again with a dynamic batch, as the command export does, or with BatchNorm folded",
            code="unsupported",
        )
    raise invalid_data(
        "batches of one sample leave BatchNorm nothing to normalise by",
        "use batches of 2 or more (--batch-size), or more data",
    )
