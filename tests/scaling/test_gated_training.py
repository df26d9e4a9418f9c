"""Cutting closed filters out changes nothing, nor does sharing a batch between threads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.scaling import gated_training
from netadapt_onnx.scaling.gated_training import GatedNetwork
from netadapt_onnx.training.settings import Settings
from scaling_cases import NETWORKS, samples_for
from tracing import trace_model

every_network = pytest.mark.parametrize("proto", NETWORKS.values(), ids=NETWORKS.keys())


@every_network
def test_cutting_closed_filters_out_changes_nothing(proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on as it would with closed gates: weights, momenta and running statistics are carried over."""

    def importances(cut_share: float) -> tuple[list[np.ndarray], int]:
        monkeypatch.setattr(gated_training, "CUT_SHARE", cut_share)
        original = trace_model(proto)
        seen = []
        with GatedNetwork(original, samples_for(original), None, Settings()) as network:
            for step in range(6):
                seen.append(network.step(np.arange(step * 16, step * 16 + 16), 0.01))
                members = [original.members[g.name] for g in original.prunable]
                for roots in members:
                    remaining = np.unique(roots[network.open[roots] > 0])
                    network.close(remaining[:1] if len(remaining) > 2 else remaining[:0])
            assert network._replicas is not None
            size = sum(p.numel() for p in network._replicas.main.parameters())
        return seen, size

    (masked, uncut_size), (cut, cut_size) = importances(2.0), importances(1e-9)
    assert cut_size < 0.7 * uncut_size
    for a, b in zip(masked, cut, strict=True):
        assert np.abs(a - b).max() <= 1e-3 * a.max()


def test_a_batch_shared_by_two_threads_says_the_same_of_every_filter() -> None:
    """Without BatchNorm, that is, whose statistics are each half's own."""
    b = models.Builder(1)
    x = b.relu(b.conv("image", 3, 8))
    b.head(b.relu(b.conv(x, 8, 12)), 12)
    original = trace_model(b.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 10)}))
    seen = []
    for replicas in (1, 2):
        with GatedNetwork(original, samples_for(original), None, Settings(replicas=replicas)) as network:
            seen.append(network.step(np.arange(96), 0.1) + network.step(np.arange(96), 0.1))
    assert np.abs(seen[0] - seen[1]).max() < 1e-3 * seen[0].max()
