"""Importance by gradients: what the loss would change if a channel were removed, to first or second order.

A gate z of 1 stands where channels are summed over (`reduction_sites`); removing a channel sets its gates to 0. The
gradient of the loss with respect to a gate equals the sum of weight times gradient over the consumers' slices of the
channel. Channels that are removed together share one gate, so their gradients add up before they are squared. To first
order removal changes the loss L by dL/dz, so importance is (dL/dz)^2 averaged over batches (taylor: Molchanov et al.,
CVPR 2019) or half of it averaged over samples (fisher: Theis et al., arXiv:1801.05787).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netadapt_onnx.common.progress import steps
from netadapt_onnx.data.batch_layout import samples_first
from netadapt_onnx.data.dataset import Labels, Split
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.inputs import dynamic_batch_inputs
from netadapt_onnx.surgery.reduction_sites import reduction_sites
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.loss import TaskLoss, label_tensors, task_loss
from netadapt_onnx.training.memory import footprint
from netadapt_onnx.training.replicas import one_thread, tensors
from netadapt_onnx.training.torch_graph import TorchGraph

BATCH = 16
# A standard deviation below this is that of an output that does not move.
_STILL = 1e-6


def taylor(trace: Trace, split: Split, seed: int = 0) -> np.ndarray:
    """First-order Taylor importance: the squared gate gradient of a batch, averaged over batches.

    (Molchanov et al., CVPR 2019.) The loss is the task's where the samples have labels; without, see `_drawn_loss`.

    Args:
        trace: The model.
        split: The samples.
        seed: The seed of what is drawn where the samples have no labels.

    Returns:
        The importance by root label, (labels,).

    Raises:
        NetadaptError: For operators that training does not support, and if the loss depends on no channel.
    """
    return _squares(trace, split, BATCH, seed)


def fisher(trace: Trace, split: Split, seed: int = 0) -> np.ndarray:
    """Fisher importance: half the squared gate gradient of a sample, averaged over samples.

    (Theis et al., arXiv:1801.05787; gradients of coupled channels summed as by Liu et al., ICML 2021.) Second order,
    where `taylor` is first. Loss, arguments, result and errors are as there.
    """
    return _squares(trace, split, 1, seed) / 2


def _squares(trace: Trace, split: Split, size: int, seed: int) -> np.ndarray:
    """Mean over batches of `size` samples of the squared gradient of the mean loss, (labels,)."""
    proto = trace.folded.proto
    graph = TorchGraph(proto).eval().requires_grad_(False)
    needs = footprint(graph, split)
    losses = task_loss(proto, needs.shapes, layout=split.layout)
    drawn = torch.Generator().manual_seed(seed)
    total = np.zeros(len(trace.roots))
    size = min(size, len(split))
    # A batch written into the file is kept to: not every graph can be run at another.
    declared = size if dynamic_batch_inputs(proto) else min(size, next(iter(trace.folded.specs.values()))[0][0])
    at_once = needs.only_batch or declared
    batches = len(split) // size
    with one_thread(), steps("scoring channels", batches * size) as report:
        for start in range(0, batches * size, size):
            gradient = np.zeros(len(trace.roots))
            for inputs, labels in split.subset(slice(start, start + size)).batches(at_once):
                share = len(next(iter(inputs.values()))) / size
                labels = None if split.user_metric is not None else labels  # which only its own functions understand
                gradient += share * _gate_gradients(trace, graph, losses, tensors(inputs), labels, drawn)
            total += gradient**2
            report(start + size)
    if not np.isfinite(total).all() or not total.any():
        what = "depends on no channel" if np.isfinite(total).all() else "has gradients that are no numbers"
        raise NetadaptError(f"the model's loss {what}", hint="choose a criterion without gradients, l2 say")
    return total / batches


def _gate_gradients(
    trace: Trace,
    graph: TorchGraph,
    losses: TaskLoss,
    inputs: Mapping[str, Tensor],
    labels: Labels | None,
    drawn: torch.Generator,
) -> np.ndarray:
    """Gradient of a batch's mean loss with respect to the gate of every root label, (labels,)."""
    sites = reduction_sites(trace)
    ranks = [len(trace.flat.shapes[site.tensor]) for site in sites]
    gates = [torch.ones(site.gate_shape(rank), requires_grad=True) for site, rank in zip(sites, ranks, strict=True)]
    outputs = graph.gated(inputs, [((s.output, s.slot), gate) for s, gate in zip(sites, gates, strict=True)])
    if labels is not None:
        loss = losses(outputs, label_tensors(labels), None)
    else:
        loss = _drawn_loss(losses, outputs, drawn) / len(next(iter(inputs.values())))
    gradients = torch.autograd.grad(loss, gates, allow_unused=True, materialize_grads=True)
    by_label = np.zeros(len(trace.roots))
    for site, gradient in zip(sites, gradients, strict=True):
        np.add.at(by_label, site.axis_labels, gradient.double().numpy().reshape(-1))
    by_label[0] = 0.0
    return by_label


def _drawn_loss(losses: TaskLoss, outputs: Mapping[str, Tensor], drawn: torch.Generator) -> Tensor:
    """The loss against answers drawn from what the model itself predicts, summed over samples.

    Against its own most likely answers a model has (almost) no gradient. Squared gradients against drawn ones
    average to the curvature of the divergence between the model and a changed copy: what a distillation loss would rise
    by to second order (Martens, JMLR 2020). Scores are drawn as classes, plain values with normal noise of their own
    spread. It says what changes the answers, not what makes them wrong.
    """
    terms = []
    outputs = samples_first(outputs, losses.layout)
    for name, output in losses.outputs.items():
        value = outputs[name].float()
        if output.form == "values":
            noise = torch.randn(value.shape, generator=drawn) / value.detach().std(correction=0).clamp_min(_STILL)
            terms.append((noise * value).sum() / max(1, value[0].numel()) ** 0.5)
            continue
        scores = F.log_softmax(losses.log_scores(name, value).movedim(output.axis, -1).flatten(0, -2), -1)
        classes = torch.multinomial(scores.detach().exp(), 1, generator=drawn)
        terms.append(-scores.gather(1, classes).sum() / (len(scores) / len(value)) ** 0.5)
    return torch.stack(terms).sum()
