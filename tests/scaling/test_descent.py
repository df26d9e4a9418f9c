"""Architecture descent: gates say what filters are worth, and cutting closed filters out changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

import models
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.scaling import shrinking
from netadapt_onnx.scaling.descent import Schedule, descend
from netadapt_onnx.scaling.gates import Gate, gates
from netadapt_onnx.scaling.record import Record
from netadapt_onnx.scaling.shrinking import Momentum, Shrinking
from netadapt_onnx.surgery.reduction_sites import reduction_sites
from netadapt_onnx.surgery.trace import Trace
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.task import task
from netadapt_onnx.training.torch_graph import TorchGraph
from tracing import trace_model

NETWORKS = {
    "plain": models.plain((8, 12, 16), size=8),
    "residual": models.residual(8, size=8),
    "grouped": models.grouped(8, size=8),
    "concatenated": models.concatenated(size=8),
    "fully_connected": models.fully_connected(size=8),
}
every_network = pytest.mark.parametrize("proto", NETWORKS.values(), ids=NETWORKS.keys())
SGD = Momentum(0.5, 5e-4)


def data(found: Trace, samples: int = 96) -> Dataset:
    rng = np.random.default_rng(0)
    name, (shape, _) = next(iter(found.folded.specs.items()))
    x = rng.normal(0, 1, (samples, *shape[1:])).astype(np.float32)
    split = Split({name: x}, rng.integers(0, 10, samples))
    return Dataset(split, split)


def derivatives(found: Trace, wired: tuple[Gate, ...], opened: np.ndarray) -> np.ndarray:
    """dL/dg by root label, with these gates, of the first eight samples."""
    graph, split = TorchGraph(found.folded.proto).eval().double(), data(found).train
    values = [torch.from_numpy(opened[g.line].reshape(g.shape)).requires_grad_() for g in wired]
    inputs = {name: torch.from_numpy(v).double() for name, v in split.batch(np.arange(8)).items()}
    outputs = graph.gated(inputs, [((g.output, g.slot), v) for g, v in zip(wired, values, strict=True)])
    shapes = {v.name: found.folded.shapes[v.name] for v in found.folded.proto.graph.output}
    labels = torch.from_numpy(split.targets(np.arange(8)))
    total = np.zeros(len(opened))
    loss = task(found.folded.proto, shapes, data(found)).loss(outputs, labels, None)
    for gate, gradient in zip(wired, torch.autograd.grad(loss, values), strict=True):
        np.add.at(total, gate.line, gradient.numpy().reshape(-1))
    total[0] = 0
    return np.append(total, float(loss.detach()))


@every_network
def test_gates_on_weights_are_those_on_the_data(proto: onnx.ModelProto) -> None:
    found = trace_model(proto)
    cheap = gates(found)
    on_data = tuple(
        Gate(p.output, p.slot, p.axis, len(found.flat.shapes[p.tensor]), p.axis_labels) for p in reduction_sites(found)
    )
    assert all(found.labels.is_constant(_operand(found, gate)) for gate in cheap)
    opened = np.ones(len(found.roots))
    opened[np.unique(np.concatenate([g.line for g in cheap]))[1::5]] = 0  # a few are closed
    opened[0] = 1
    a, b = derivatives(found, cheap, opened), derivatives(found, on_data, opened)
    assert np.abs(a - b).max() < 1e-9 * np.abs(b).max()


def _operand(found: Trace, gate: Gate) -> str:
    node = next(n for n in found.flat.proto.graph.node if n.output[0] == gate.output)
    return str(node.input[gate.slot])


def test_a_gates_gradient_is_the_losss_slope() -> None:
    found = trace_model(NETWORKS["residual"])
    wired, opened = gates(found), np.ones(len(found.roots))
    slopes = derivatives(found, wired, opened)
    for name in ("conv1", "conv2"):
        root = found.members[name][3]
        nudged = [opened.copy(), opened.copy()]
        nudged[0][root] -= 1e-2
        nudged[1][root] += 1e-2
        low, high = (derivatives(found, wired, o)[-1] for o in nudged)
        assert slopes[root] == pytest.approx((high - low) / 2e-2, rel=1e-2)


@every_network
def test_cutting_closed_filters_out_changes_nothing(proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on as it would with closed gates: weights, momenta and running statistics are carried over."""

    def importances(cut_share: float) -> tuple[list[np.ndarray], int]:
        monkeypatch.setattr(shrinking, "CUT_SHARE", cut_share)
        found = trace_model(proto)
        seen = []
        with Shrinking(found, data(found), None, Settings(), SGD) as network:
            for step in range(6):
                seen.append(network.step(np.arange(step * 16, step * 16 + 16), 0.01))
                members = [found.members[g.name] for g in found.prunable]
                for roots in members:
                    there = np.unique(roots[network.open[roots] > 0])
                    network.close(there[:1] if len(there) > 2 else there[:0])
            assert network._replicas is not None
            size = sum(p.numel() for p in network._replicas.main.parameters())
        return seen, size

    (masked, whole), (cut, left) = importances(2.0), importances(1e-9)
    assert left < 0.7 * whole
    for a, b in zip(masked, cut, strict=True):
        assert np.abs(a - b).max() <= 1e-3 * a.max()


def recorded(proto: onnx.ModelProto, schedule: Schedule) -> Record:
    found = trace_model(proto)
    return descend(found, lambda widths: float(sum(widths.values())), data(found), schedule, Settings())


def test_a_descent_records_every_removal_until_a_group_would_fall_below_its_floor() -> None:
    schedule = Schedule(warm_up_epochs=1, batch_size=32, batches=1, removed=2)
    record = recorded(models.plain((150, 150), size=8), schedule)
    lost = -np.diff(record.widths.sum(axis=1))
    assert len(record.tau) > 10 and (lost == 2).all()
    assert record.widths.min() >= 1 and (record.widths < 150).all()
    assert (record.tau == record.widths.sum(axis=1)).all()


def test_a_sparing_descent_goes_on_past_groups_at_their_floor_and_records_all_of_it() -> None:
    """MorphNet's half of the filters, of a network with a layer of two: the other way ends when that has one."""
    network = models.plain((2, 60), size=8)
    schedule = Schedule(warm_up_epochs=1, batch_size=32, batches=1, removed=1, share=0.9)
    strict, sparing = (recorded(network, replace(schedule, sparing=way)) for way in (False, True))
    assert len(sparing.tau) == int(0.9 * 62)
    assert (np.diff(sparing.tau) == -1).all() and sparing.tau[0] == 61
    assert sparing.widths.min() >= 1
    assert len(strict.tau) < len(sparing.tau)


def test_a_batch_shared_by_two_threads_says_the_same_of_every_filter() -> None:
    """Without BatchNorm, that is, whose statistics are each half's own."""
    b = models.Builder(1)
    x = b.relu(b.conv("image", 3, 8))
    b.head(b.relu(b.conv(x, 8, 12)), 12)
    found = trace_model(b.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 10)}))
    seen = []
    for replicas in (1, 2):
        with Shrinking(found, data(found), None, Settings(replicas=replicas), SGD) as network:
            seen.append(network.step(np.arange(96), 0.1) + network.step(np.arange(96), 0.1))
    assert np.abs(seen[0] - seen[1]).max() < 1e-3 * seen[0].max()
