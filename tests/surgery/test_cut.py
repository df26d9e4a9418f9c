"""What a cut keeps is plain data: counts, masks, layouts and shapes of every tensor."""

from __future__ import annotations

import numpy as np

import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.passes.pipeline import normalise
from netadapt_onnx.surgery.cut import arrange
from netadapt_onnx.surgery.trace import trace


def test_a_cut_says_what_is_kept_of_every_tensor() -> None:
    proto = models.plain()
    normalise(proto)
    original = trace(fold(proto))
    group = original.prunable[0]
    (layer,) = original.layers_of(group)
    cut = original.cut({group.name: np.array([1, 3])})
    kept = np.isin(np.arange(group.channels), [1, 3])
    assert not cut.grows
    assert cut.original_shape(layer.weight)[layer.axis] == group.channels
    assert cut.shape(layer.weight)[layer.axis] == 2
    np.testing.assert_array_equal(cut.kept(layer.weight, layer.axis), kept)
    np.testing.assert_array_equal(cut.counts(layer.weight, layer.axis), kept)
    positions, copies = cut.layout(layer.weight, layer.axis)
    assert positions.tolist() == [1, 3] and not copies.any()
    assert cut.shapes == original.resized_shapes({group.name: np.array([1, 3])})
    assert original.cut({group.name: np.array([0, *range(group.channels)])}).grows


def test_runs_of_equal_labels_repeat_as_a_whole() -> None:
    positions, copies = arrange(np.array([2, 2, 0, 1]), [np.array([7, 7, 8, 9])])
    assert positions.tolist() == [0, 1, 0, 1, 3]
    assert copies.tolist() == [0, 0, 1, 1, 0]
