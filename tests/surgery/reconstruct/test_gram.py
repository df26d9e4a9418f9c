"""Gram matrices do not depend on how images are run, and are kept for layers that read what they read before."""

from __future__ import annotations

import numpy as np
import pytest

import models
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery.reconstruct import gram
from netadapt_onnx.surgery.reconstruct.gram import GramCache, GramMatrices, gram_matrices, original_targets
from netadapt_onnx.surgery.reconstruct.least_squares import kept_outputs, reconstruct, reconstruct_in_order
from netadapt_onnx.surgery.trace import Trace
from tracing import trace_model


def images(count: int) -> Arrays:
    return {"image": np.random.default_rng(0).standard_normal((count, 3, 16, 16)).astype(np.float32)}


def assert_equal(ours: dict[str, GramMatrices], theirs: dict[str, GramMatrices], tolerance: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        for field in ("gram", "cross", "mean_in", "mean_out"):
            one, other = getattr(ours[name], field), getattr(expected, field)
            assert one.shape == other.shape, (name, field)
            assert np.abs(one - other).max() <= tolerance * np.abs(other).max(), (name, field)


@pytest.mark.parametrize("build", [models.plain, models.residual, models.grouped])
def test_matrices_are_those_of_all_samples(build) -> None:  # type: ignore[no-untyped-def]
    """Against numpy's own covariance of rows that are sampled one image at a time."""
    traced, inputs = trace_model(build()), images(70)
    targets = original_targets(traced, inputs, samples=70 * 40)
    layers = {layer.output: layer for layer in gram.linear_layers(traced)}
    matrices = gram_matrices(traced, inputs, targets)
    names = {name: layers[name].input for name in matrices}
    columns: dict[str, list[np.ndarray]] = {}
    for block, arrays in gram.activations(traced, inputs, list(names.values())):
        for name, read in names.items():
            layer, x = layers[name], arrays[read]
            positions = layer.positions(0, block, targets.per_image)
            out = np.empty((layer.groups * layer.inputs_per_group, len(x) * len(positions)))
            layer.inputs_at(x, positions, out)
            columns.setdefault(name, []).append(out)
    for name, parts in columns.items():
        layer, y = layers[name], targets.outputs[name].astype(np.float64)
        x = np.concatenate(parts, axis=1).reshape(layer.groups, layer.inputs_per_group, -1)
        y = y.reshape(layer.groups, -1, y.shape[1])
        x_mean, y_mean = x.mean(axis=2), y.mean(axis=2)
        x, y = x - x_mean[:, :, None], y - y_mean[:, :, None]
        samples = x.shape[2]
        expected = GramMatrices(x @ x.transpose(0, 2, 1) / samples, x @ y.transpose(0, 2, 1) / samples, x_mean, y_mean)
        assert_equal({name: matrices[name]}, {name: expected}, 1e-5)


def test_nothing_depends_on_how_many_images_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    traced, inputs = trace_model(models.residual()), images(100)
    keep = {group.name: np.arange(group.channels // 2) for group in traced.prunable}

    def all_of_it() -> tuple[dict[str, GramMatrices], dict[str, np.ndarray], bytes]:
        targets = original_targets(traced, inputs)
        matrices = gram_matrices(traced, inputs, targets)
        solved = reconstruct_in_order(traced, keep, inputs, targets)
        return matrices, dict(targets.outputs), solved.SerializeToString()

    matrices, outputs, _ = all_of_it()
    monkeypatch.setattr("netadapt_onnx.surgery.calibration.MOST_RUN_BYTES", 0)
    one_by_one, outputs_one_by_one, solved = all_of_it()
    assert_equal(one_by_one, matrices, 1e-5)
    for name, values in outputs.items():
        assert np.abs(outputs_one_by_one[name] - values).max() < 1e-5 * np.abs(values).max()
    assert solved == all_of_it()[2]  # the same to the byte, when nothing differs


def cut_and_traced(traced: Trace, keep: dict[str, np.ndarray], inputs: Arrays) -> Trace:
    targets = original_targets(traced, inputs)
    return trace_model(reconstruct(traced, keep, gram_matrices(traced, inputs, targets)))


@pytest.mark.parametrize("build", [lambda: models.plain((16, 16, 16, 16)), models.residual, models.grouped])
def test_kept_matrices_are_those_that_are_computed_anew(build, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """To the bit, for a run that is resumed begins with none."""
    traced, inputs = trace_model(build()), images(80)
    targets = original_targets(traced, inputs)
    group = traced.prunable[len(traced.prunable) // 2]
    keep = {group.name: np.arange(0, group.channels, 2)}
    smaller, kept = cut_and_traced(traced, keep, inputs), kept_outputs(traced, keep)
    cache = GramCache()
    gram_matrices(traced, inputs, targets, cache=cache)
    computed: set[str] = set()
    add = gram.GramSums.add

    def spy(sums: gram.GramSums, block: int, x: np.ndarray) -> None:
        computed.add(sums._layer.output)
        add(sums, block, x)

    monkeypatch.setattr(gram.GramSums, "add", spy)
    with_cache = gram_matrices(smaller, inputs, targets, kept, cache)
    again = gram_matrices(smaller, inputs, targets, kept, cache)
    assert computed and computed < with_cache.keys(), "some are computed anew, and some are not"
    assert_equal(with_cache, gram_matrices(smaller, inputs, targets, kept))
    assert_equal(again, with_cache)
