"""A gate on a weight has the gradient of one on the data, which is the slope of the loss."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from netadapt_onnx.scaling.filter_gates import Gate, filter_gates
from netadapt_onnx.surgery.reduction_sites import reduction_sites
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.loss import task_loss
from netadapt_onnx.training.torch_graph import TorchGraph
from scaling_cases import NETWORKS, samples_for
from tracing import trace_model

every_network = pytest.mark.parametrize("proto", NETWORKS.values(), ids=NETWORKS.keys())


def derivatives(original: Trace, wired: tuple[Gate, ...], opened: np.ndarray) -> np.ndarray:
    """dL/dg by root label, with these gates, of the first eight samples."""
    graph, split = TorchGraph(original.folded.proto).eval().double(), samples_for(original).train
    values = [torch.from_numpy(opened[g.axis_labels].reshape(g.shape)).requires_grad_() for g in wired]
    inputs = {name: torch.from_numpy(v).double() for name, v in split.batch(np.arange(8)).items()}
    outputs = graph.gated(inputs, [((g.output, g.slot), v) for g, v in zip(wired, values, strict=True)])
    shapes = {v.name: original.folded.shapes[v.name] for v in original.folded.proto.graph.output}
    labels = torch.from_numpy(split.targets(np.arange(8)))
    total = np.zeros(len(opened))
    loss = task_loss(original.folded.proto, shapes, samples_for(original))(outputs, labels, None)
    for gate, gradient in zip(wired, torch.autograd.grad(loss, values), strict=True):
        np.add.at(total, gate.axis_labels, gradient.numpy().reshape(-1))
    total[0] = 0
    return np.append(total, float(loss.detach()))


@every_network
def test_gates_on_weights_are_those_on_the_data(proto: onnx.ModelProto) -> None:
    original = trace_model(proto)
    cheap = filter_gates(original)
    on_data = tuple(
        Gate(p.output, p.slot, p.axis, len(original.flat.shapes[p.tensor]), p.axis_labels)
        for p in reduction_sites(original)
    )
    assert all(original.labels.is_constant(_operand(original, gate)) for gate in cheap)
    opened = np.ones(len(original.roots))
    opened[np.unique(np.concatenate([g.axis_labels for g in cheap]))[1::5]] = 0  # a few are closed
    opened[0] = 1
    a, b = derivatives(original, cheap, opened), derivatives(original, on_data, opened)
    assert np.abs(a - b).max() < 1e-9 * np.abs(b).max()


def _operand(original: Trace, gate: Gate) -> str:
    node = next(n for n in original.flat.proto.graph.node if n.output[0] == gate.output)
    return str(node.input[gate.slot])


def test_a_gates_gradient_is_the_losss_slope() -> None:
    original = trace_model(NETWORKS["residual"])
    wired, opened = filter_gates(original), np.ones(len(original.roots))
    slopes = derivatives(original, wired, opened)
    for name in ("conv1", "conv2"):
        root = original.members[name][3]
        nudged = [opened.copy(), opened.copy()]
        nudged[0][root] -= 1e-2
        nudged[1][root] += 1e-2
        low, high = (derivatives(original, wired, o)[-1] for o in nudged)
        assert slopes[root] == pytest.approx((high - low) / 2e-2, rel=1e-2)
