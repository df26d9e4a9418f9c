"""Ridge reconstruction: the layers that lose inputs make up for it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import models
from netadapt_onnx.graph.runtime import Arrays, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.reconstruct.gram import gram_matrices, original_targets
from netadapt_onnx.surgery.reconstruct.least_squares import kept_outputs, reconstruct, reconstruct_in_order
from netadapt_onnx.surgery.resize import resize
from tracing import trace_model


def images(n: int, size: int = 16) -> Arrays:
    """Smooth images: neighbouring pixels and channels agree, so that channels are redundant as in real ones."""
    rng = np.random.default_rng(0)
    low = rng.standard_normal((n, 3, size // 4, size // 4)).astype(np.float32)
    return {"image": low.repeat(4, axis=2).repeat(4, axis=3)}


def logits(proto: onnx.ModelProto, inputs: Arrays) -> np.ndarray:
    return run(session(proto), inputs)["logits"]


@pytest.mark.parametrize("build", [models.plain, models.residual, models.concatenated, models.fully_connected])
def test_reconstruction_brings_the_output_closer_to_the_originals(build) -> None:  # type: ignore[no-untyped-def]
    traced = trace_model(build(size=16))
    inputs, unseen = images(256), {"image": images(320)["image"][256:]}
    keep = select(traced, {g.name: g.channels // 2 for g in traced.prunable})
    matrices = gram_matrices(traced, inputs, original_targets(traced, inputs))
    expected = logits(traced.folded.proto, unseen)
    cut = np.abs(logits(resize(traced, keep), unseen) - expected).mean()
    solved = np.abs(logits(reconstruct(traced, keep, matrices), unseen) - expected).mean()
    assert solved < 0.7 * cut


def test_a_redundant_channel_costs_nothing() -> None:
    """Two equal filters: with one of them gone, the consumer's weights make up for it exactly."""
    proto = models.plain((8, 8))
    values = {t.name: t for t in proto.graph.initializer}
    for name in ("conv1.weight", "bn1.scale", "bn1.bias", "bn1.mean", "bn1.var"):
        array = onnx.numpy_helper.to_array(values[name]).copy()
        array[5] = array[2]
        values[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    traced = trace_model(proto)
    inputs = images(256)
    matrices = gram_matrices(traced, inputs, original_targets(traced, inputs))
    keep = {"conv1": np.delete(np.arange(8), 5)}
    expected = logits(traced.folded.proto, inputs)
    gap = np.abs(logits(reconstruct(traced, keep, matrices), inputs) - expected).max() / expected.std()
    assert gap < 0.02  # the ridge term alone
    assert np.abs(logits(resize(traced, keep), inputs) - expected).max() / expected.std() > 0.1


def test_targets_stay_the_originals_over_two_cuts() -> None:
    traced = trace_model(models.plain((16, 16, 16)))
    inputs = images(256)
    targets = original_targets(traced, inputs)
    first = {"conv1": np.arange(8)}
    half = reconstruct(traced, first, gram_matrices(traced, inputs, targets))
    kept = kept_outputs(traced, first)
    again = trace_model(half)
    second = {"conv2": np.arange(0, 16, 2)}
    matrices = gram_matrices(again, inputs, targets, kept)
    assert matrices["conv2_out"].cross.shape[-1] == 16
    result = reconstruct(again, second, matrices)
    expected = logits(traced.folded.proto, inputs)
    solved = np.abs(logits(result, inputs) - expected).mean()
    assert solved < np.abs(logits(resize(again, second), inputs) - expected).mean()
    assert kept_outputs(again, second, kept)["conv2_out"].tolist() == list(range(0, 16, 2))


def test_a_reconstructed_model_has_the_shapes_of_the_cut_one() -> None:
    traced = trace_model(models.fully_connected())
    inputs = {"image": images(64, 8)["image"]}
    keep = select(traced, {g.name: g.channels // 2 for g in traced.prunable})
    solved = reconstruct(traced, keep, gram_matrices(traced, inputs, original_targets(traced, inputs)))
    cut = resize(traced, keep)
    names = {t.name: tuple(t.dims) for t in solved.graph.initializer}
    assert names == {t.name: tuple(t.dims) for t in cut.graph.initializer}
    onnx.checker.check_model(solved, full_check=True)


def test_a_model_with_nothing_to_solve_has_no_gram_matrices() -> None:
    b = models.Builder()
    b.conv("image", 3, 4, name="only")
    traced = trace_model(b.model({"image": ("N", 3, 8, 8)}, {"only_out": ("N", 4, 8, 8)}))
    inputs = images(4, 8)
    assert gram_matrices(traced, inputs, original_targets(traced, inputs)) == {}


def test_a_consumer_with_one_output_channel_is_solved_too() -> None:
    traced = trace_model(models.plain((16, 1), classes=1))
    inputs = images(128)
    matrices = gram_matrices(traced, inputs, original_targets(traced, inputs))
    assert "conv2_out" in matrices
    solved = reconstruct(traced, {"conv1": np.arange(8)}, matrices)
    assert solved.graph.initializer[0].dims[0] == 8


def test_a_layer_along_other_axes_than_channels_keeps_its_slices() -> None:
    """The tokens that an MLP-Mixer mixes are the positions of all channels, of which a cut leaves fewer."""
    b = models.Builder()
    x = b.node("Reshape", [b.conv("image", 3, 8), b.constant("tokens", np.array([0, 8, 16]))])
    mixed = b.node("MatMul", [b.relu(b.node("MatMul", [x, b.random("up", (16, 12), 16)])), b.random("down", (12, 16))])
    x = b.node("ReduceMean", [b.node("Add", [x, mixed])], axes=[2], keepdims=0)
    b.node("MatMul", [x, b.random("out", (8, 5), 8)], output="y")
    traced, inputs = trace_model(b.model({"image": ("N", 3, 4, 4)}, {"y": ("N", 5)})), images(40, 4)
    keep = select(traced, {group.name: group.channels // 2 for group in traced.prunable})
    assert len(keep) == 2
    solved = reconstruct_in_order(traced, keep, inputs, original_targets(traced, inputs))
    want, cut, new = (run(session(m), inputs)["y"] for m in (traced.folded.proto, resize(traced, keep), solved))
    assert np.abs(new - want).mean() < np.abs(cut - want).mean()


def test_a_batch_written_into_the_file_is_kept_to() -> None:
    proto = models.plain((8, 12))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    traced = trace_model(proto)
    inputs = images(66)  # the last two fill no batch
    solved = reconstruct(
        traced, {"conv1": np.arange(4)}, gram_matrices(traced, inputs, original_targets(traced, inputs))
    )
    assert logits(solved, {"image": inputs["image"][:4]}).shape == (4, 10)


@pytest.mark.parametrize("build", [models.plain, models.residual, models.grouped, models.concatenated])
def test_in_order_every_layer_sees_what_is_left_of_those_before(build) -> None:  # type: ignore[no-untyped-def]
    traced = trace_model(build(size=16))
    inputs, unseen = images(256), {"image": images(320)["image"][256:]}
    keep = select(traced, {g.name: g.channels // 2 for g in traced.prunable})
    targets = original_targets(traced, inputs)
    expected = logits(traced.folded.proto, unseen)
    once = np.abs(logits(reconstruct(traced, keep, gram_matrices(traced, inputs, targets)), unseen) - expected).mean()
    solved = reconstruct_in_order(traced, keep, inputs, targets)
    assert np.abs(logits(solved, unseen) - expected).mean() < 0.9 * once
    names = {t.name: tuple(t.dims) for t in solved.graph.initializer}
    assert names.items() >= {t.name: tuple(t.dims) for t in resize(traced, keep).graph.initializer}.items()


def test_activations_that_do_not_fit_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = trace_model(models.residual())
    for value in (*traced.folded.proto.graph.input, *traced.folded.proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inputs = images(48)
    keep = select(traced, {g.name: g.channels // 2 for g in traced.prunable})
    targets = original_targets(traced, inputs)
    kept = reconstruct_in_order(traced, keep, inputs, targets)
    monkeypatch.setattr("netadapt_onnx.surgery.calibration.MOST_KEPT_BYTES", 0)
    again = reconstruct_in_order(traced, keep, inputs, targets)
    assert (
        np.abs(logits(again, {"image": inputs["image"][:1]}) - logits(kept, {"image": inputs["image"][:1]})).max()
        < 1e-3
    )


def test_layers_that_lost_nothing_are_left_where_only_the_others_are_solved() -> None:
    traced, inputs = trace_model(models.plain((16, 16, 16))), images(64)
    keep, targets = {"conv1": np.arange(8)}, original_targets(traced, inputs)
    cut = {t.name: t for t in resize(traced, keep).graph.initializer}

    def solved(only_cut: bool) -> set[str]:
        model = reconstruct_in_order(traced, keep, inputs, targets, only_cut=only_cut)
        return {t.name for t in model.graph.initializer if t.name.endswith("weight") and t != cut[t.name]}

    assert solved(only_cut=True) == {"conv2.weight"}
    assert solved(only_cut=False) >= {"conv2.weight", "conv3.weight"}
