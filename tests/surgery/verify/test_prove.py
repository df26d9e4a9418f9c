"""The proof can fail, and it speaks for outputs that say little themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.cut import KeptIndices
from netadapt_onnx.surgery.kept_counts import at_ratio
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.surgery.verify.prove import verify
from tracing import trace_model


def cut(traced: Trace, ratio: float = 0.3) -> KeptIndices:
    return select(traced, at_ratio(traced.prunable, ratio))


def with_last(op: str, output_type: int, *, factor: float = 1.0, **attributes: object) -> onnx.ModelProto:
    """A residual network whose logits, times `factor`, end in one more operator."""
    b = models.Builder()
    x = b.conv_bn_relu(b.conv_bn_relu("image", 3, 12), 12, 16)
    logits = b.node("Mul", [b.head(x, 16), b.constant("factor", np.float32(factor))])
    last = b.node(op, [logits], name="last", **attributes)
    outputs = [helper.make_tensor_value_info(last, output_type, None)]
    proto = b.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 10)})
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    return proto


def classes() -> onnx.ModelProto:
    """The output is the number of the likeliest class."""
    return with_last("ArgMax", TensorProto.INT64, axis=1)


def saturated() -> onnx.ModelProto:
    """The output is zeros and ones whatever comes in."""
    return with_last("HardSigmoid", TensorProto.FLOAT, factor=1e6)


def found_positions() -> onnx.ModelProto:
    """How many positions the output lists depends on the data."""
    return with_last("NonZero", TensorProto.INT64)


def with_dead_channels() -> onnx.ModelProto:
    """A third of conv1's channels is never above zero, so nothing depends on what reads them."""
    proto = models.plain((12, 12))
    shift = next(t for t in proto.graph.initializer if t.name == "bn1.bias")
    values = numpy_helper.to_array(shift).copy()
    values[::3] = -100
    shift.CopyFrom(numpy_helper.from_array(values, shift.name))
    return proto


MUTATED: dict[str, Callable[[], onnx.ModelProto]] = {
    **models.ALL,
    "classes": classes,
    "saturated": saturated,
    "found_positions": found_positions,
    "with_dead_channels": with_dead_channels,
}


def swap_channels(model: onnx.ModelProto, rng: np.random.Generator) -> str:
    """Swap two slices of any constant along any axis, in place; returns what was swapped."""
    tensors = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and max(t.dims, default=0) > 1]
    while True:
        tensor = tensors[rng.integers(len(tensors))]
        values = numpy_helper.to_array(tensor)
        axis = rng.choice([k for k, n in enumerate(values.shape) if n > 1])
        i, j = rng.choice(values.shape[axis], 2, replace=False)
        order = np.arange(values.shape[axis])
        order[[i, j]] = order[[j, i]]
        swapped = values.take(order, axis)
        if not np.array_equal(swapped, values):
            tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
            return f"{tensor.name} axis {axis}: {i} and {j}"


def effect(a: onnx.ModelProto, b: onnx.ModelProto, traced: Trace) -> float:
    """The largest difference between two models of one topology on any float tensor, relative to its spread."""
    names = [name for node in a.graph.node for name in node.output if traced.folded.dtypes[name].kind == "f"]
    largest = 0.0
    for seed in range(2):
        inputs = random_inputs(traced.folded.specs, seed)
        one, other = (run(session(m, outputs=names, optimise=False), inputs) for m in (a, b))
        largest = max(largest, *(float(np.abs(one[n] - other[n]).max()) / float(one[n].std() + 1e-9) for n in names))
    return largest


@pytest.mark.seconds
def test_swapped_channels_are_caught_and_those_that_are_not_have_no_effect() -> None:
    """Those few are weights that meet only zeros: dead channels, units behind a Relu that never opens."""
    rng = np.random.default_rng(0)
    attempts, missed = 0, []
    for name, build in MUTATED.items():
        traced = trace_model(build())
        keep = cut(traced)
        intact = resize(traced, keep)
        assert verify(traced, keep, pruned=intact, runs=2).exact
        for _ in range(10):
            mutant = resize(traced, keep)
            what = swap_channels(mutant, rng)
            attempts += 1
            if verify(traced, keep, pruned=mutant, runs=2).exact:
                missed.append((name, what, effect(intact, mutant, traced)))
    assert len(missed) <= 0.05 * attempts, missed
    assert all(changed < 1e-4 for _, _, changed in missed), missed


@pytest.mark.seconds
def test_swaps_in_real_models_are_caught(real_models) -> None:  # type: ignore[no-untyped-def]
    from netadapt_onnx.graph.model import load

    rng = np.random.default_rng(1)
    caught = attempts = 0
    for file in ("resnet20_cifar10", "espcn_subpixel_float", "minifasnet_v2"):
        traced = trace(fold(load(real_models / f"{file}.onnx").proto))
        keep = cut(traced)
        for _ in range(6):
            mutant = resize(traced, keep)
            swap_channels(mutant, rng)
            attempts += 1
            caught += not verify(traced, keep, pruned=mutant, runs=2).exact
    assert caught >= 0.9 * attempts  # a third of minifasnet's PRelu slopes and running means act on dead channels


@pytest.mark.parametrize("build", [classes, saturated, found_positions])
def test_an_output_that_says_little_is_compared_in_front_of_itself(build: Callable[[], onnx.ModelProto]) -> None:
    traced = trace_model(build())
    result = verify(traced, cut(traced))
    assert result.exact
    assert result.moves
    assert result.outputs == {"last_out": ("mul1_out",)}


def test_an_output_of_a_dead_layer_is_compared_in_front_of_it() -> None:
    proto = models.plain()
    last = next(t for t in proto.graph.initializer if t.name == "fc1.weight")
    last.CopyFrom(numpy_helper.from_array(np.zeros(tuple(last.dims), np.float32), last.name))
    traced = trace_model(proto)
    result = verify(traced, cut(traced))
    assert result.exact
    assert result.outputs == {"logits": ("flatten1_out",)}


def test_a_model_that_nothing_moves_proves_nothing() -> None:
    b = models.Builder()
    zero = b.node("Mul", ["image", b.constant("zero", np.float32(0))])
    b.conv(b.relu(b.conv(zero, 3, 8)), 8, 4, name="last")
    traced = trace_model(b.model({"image": (1, 3, 4, 4)}, {"last_out": (1, 4, 4, 4)}))
    result = verify(traced, cut(traced))
    assert result.exact
    assert not result.moves


def test_what_is_not_a_number_is_a_difference() -> None:
    traced = trace_model(models.plain())
    keep = cut(traced, 0.5)
    pruned = resize(traced, keep)
    tensor = next(t for t in pruned.graph.initializer if t.name == "bn2.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), np.nan, np.float32), tensor.name))
    result = verify(traced, keep, pruned=pruned)
    assert not result.exact
    assert result.max_rel_diff == np.inf


def test_sums_whose_terms_cancel_differ_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of channels that cancel in pairs a ten-thousandth is left: what rounding makes of that is no difference."""
    b = models.Builder()
    x = b.conv("image", 3, 512, 1, name="first")
    pairs = np.repeat(b.rng.normal(0, 1, (256, 3, 1, 1)), 2, 0) + b.rng.normal(0, 1e-4, (512, 3, 1, 1))
    b.initializers[0].CopyFrom(numpy_helper.from_array(pairs.astype(np.float32), "first.weight"))
    b.initializers[1].CopyFrom(numpy_helper.from_array(np.zeros(512, np.float32), "first.bias"))
    weight = np.tile(np.array([1e4, -1e4], np.float32), (4, 256)).reshape(4, 512, 1, 1)
    b.node("Conv", [x, b.constant("w", weight)], "last")
    traced = trace_model(b.model({"image": (1, 3, 8, 8)}, {"last_out": (1, 4, 8, 8)}))
    keep = {"first": np.flatnonzero(np.arange(512) % 8 < 6)}
    assert verify(traced, keep).exact
    with monkeypatch.context() as patch:
        patch.setattr("netadapt_onnx.surgery.verify.prove.ROUNDING", 0)
        assert not verify(traced, keep).exact
    mutant = resize(traced, keep)
    tensor = next(t for t in mutant.graph.initializer if t.name == "w")
    values = numpy_helper.to_array(tensor).copy()
    values[:, [0, 3]] = values[:, [3, 0]]
    tensor.CopyFrom(numpy_helper.from_array(values, "w"))
    assert not verify(traced, keep, pruned=mutant).exact


@pytest.mark.parametrize("code", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_is_proven_in_float32(code: int) -> None:
    proto = models.residual()
    dtype = helper.tensor_dtype_to_np_dtype(code)
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.elem_type = code
    proto.opset_import[0].version, proto.ir_version = 22, 10
    traced = trace_model(proto)
    keep = cut(traced, 0.5)
    pruned = resize(traced, keep)
    result = verify(traced, keep, pruned=pruned)
    assert result.exact
    assert result.moves
    assert {t.data_type for t in pruned.graph.initializer} == {code}
    wrong = next(t for t in pruned.graph.initializer if t.name == "conv2.weight")
    wrong.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(wrong)[::-1].copy(), wrong.name))
    assert not verify(traced, keep, pruned=pruned).exact
