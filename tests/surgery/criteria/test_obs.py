"""The elimination order and its error against direct least-squares solutions of the consumers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest

import attention_cases
import models
import quantised_cases
from netadapt_onnx.graph.runtime import Arrays
from netadapt_onnx.surgery.criteria.obs import eliminations, obs_criterion
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.criteria.weights import l2
from netadapt_onnx.surgery.cut import KeptIndices
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.reconstruct.gram import GramMatrices, gram_matrices, original_targets
from netadapt_onnx.surgery.reconstruct.layers import linear_layers
from netadapt_onnx.surgery.trace import Trace
from rule_cases import CASES as OPERATORS
from rule_cases import build
from tracing import trace_model

# Relative to an error's size: how far two ways to compute it in float64 may be apart at a condition of about 1e6.
TOLERANCE = 1e-6
HEADS, DIM, TOKENS = 4, 3, 5


def attention() -> onnx.ModelProto:
    """Self-attention over tokens: heads go whole, or dimensions of queries and keys, which no layer reads."""
    b = models.Builder()
    width = HEADS * DIM

    def projection(x: str, name: str) -> str:
        y = b.node("MatMul", [x, b.random(f"{name}.weight", (8, width), 8)], name)
        y = b.node("Reshape", [y, b.constant(f"{name}.heads", np.array([0, TOKENS, HEADS, DIM]))])
        return b.node("Transpose", [y], perm=[0, 2, 1, 3])

    x = b.node("MatMul", ["tokens", b.random("embed.weight", (6, 8), 6)], "embed")
    q, k, v = (projection(x, name) for name in "qkv")
    scores = b.node("Softmax", [b.node("MatMul", [q, b.node("Transpose", [k], perm=[0, 1, 3, 2])])], axis=-1)
    joined = b.node("Transpose", [b.node("MatMul", [scores, v])], perm=[0, 2, 1, 3])
    joined = b.node("Reshape", [joined, b.constant("join", np.array([0, TOKENS, width]))])
    b.node("MatMul", [joined, b.random("o.weight", (width, 7), width)], "o", "logits")
    return b.model({"tokens": ("N", TOKENS, 6)}, {"logits": ("N", TOKENS, 7)})


CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    "3x3": lambda: models.plain((6, 8, 8), size=8),
    "1x1 with depthwise between": lambda: models.inverted_residuals((4, 6, 8), size=8),
    "conv groups": lambda: models.grouped(8, size=8, groups=2),
    "Gemm behind Flatten": lambda: models.fully_connected(4, hidden=8),
    "a residual stream of three consumers": lambda: models.residual(8, size=8),
    "parts of a Concat": lambda: models.concatenated(4, size=8),
    "attention heads": attention,
    "MatMul": lambda: models.channels_last(4),
}


def images(n: int) -> Arrays:
    return {"image": np.random.default_rng(n).standard_normal((n, 3, 8, 8)).astype(np.float32)}


def inputs_of(trace: Trace, count: int) -> Arrays:
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal((count, *shape[1:])).astype(dtype)
        for name, (shape, dtype) in trace.folded.specs.items()
    }


def traced_with_matrices(
    proto: onnx.ModelProto, count: int = 64, choices: Choices | None = None
) -> tuple[Trace, dict[str, GramMatrices]]:
    traced = trace_model(proto, choices)
    inputs = inputs_of(traced, count)
    return traced, gram_matrices(traced, inputs, original_targets(traced, inputs))


def solved_error(
    trace: Trace,
    matrices: Mapping[str, GramMatrices],
    keep: KeptIndices,
    held_out: Mapping[str, GramMatrices] | None = None,
) -> float | None:
    """The relative errors of all layers that lose inputs, each solved for those it keeps; None if there are none.

    An error is the sum over conv groups of |X (W - W')|^2, where W' has zeros for inputs that are gone.
    """
    cut = trace.cut(keep)
    total = None
    for layer in linear_layers(trace):
        masks = layer.kept_features(cut)
        if layer.output not in matrices or masks.all():
            continue
        lost, size = 0.0, 0.0  # of all conv groups
        weights = layer.matrix(trace.labels.value(layer.weight))
        for group, (mask, w) in enumerate(zip(masks, weights, strict=True)):
            gram = matrices[layer.output].gram[group]
            if layer.op == "MatMul" and not any(
                node.op_type == "Add" and layer.output in node.input for node in trace.folded.proto.graph.node
            ):
                # It has no bias, so it is solved through the origin.
                mean = matrices[layer.output].mean_in[group]
                gram = gram + np.outer(mean, mean)
            gram = gram + (1e-3 * np.trace(gram) / len(gram) + 1e-12) * np.eye(len(gram))
            gap = w.copy()
            gap[mask] -= np.linalg.solve(gram[np.ix_(mask, mask)], gram[mask] @ w)
            if held_out is not None:
                gram = held_out[layer.output].gram[group]
            lost += float(np.trace(gap.T @ gram @ gap))
            size += float(np.trace(w.T @ gram @ w))
        total = (total or 0.0) + lost / size
    return total


@pytest.mark.parametrize("case", CASES)
def test_the_error_at_every_count_is_that_of_the_consumers_solved_directly(case: str) -> None:
    traced, matrices = traced_with_matrices(CASES[case]())
    compared = 0
    for name, elimination in eliminations(traced, matrices).items():
        group = traced.group(name)
        assert elimination.step == group.step
        assert elimination.error(group.channels) == 0
        assert (np.diff(elimination.errors) >= 0).all()
        for count in range(group.floor, group.channels, group.step):
            direct = solved_error(traced, matrices, {name: elimination.kept(count)})
            if direct is not None:
                compared += 1
                assert elimination.error(count) == pytest.approx(direct, rel=TOLERANCE)
    assert compared


@pytest.mark.parametrize("case", CASES)
def test_each_step_removes_what_costs_least_then(case: str) -> None:
    traced, matrices = traced_with_matrices(CASES[case]())
    for name, elimination in eliminations(traced, matrices).items():
        group = traced.group(name)
        for count in range(group.floor + group.step, group.channels + 1, group.step):
            kept = elimination.kept(count)
            classes = np.unique(elimination.class_of[kept])
            tried = [kept[elimination.class_of[kept] != number] for number in classes]
            errors = [solved_error(traced, matrices, {name: rest}) for rest in tried]
            if None not in errors:
                least = min(error for error in errors if error is not None)
                assert elimination.error(count - group.step) == pytest.approx(least, rel=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_the_criterion_selects_in_the_order_of_elimination(case: str) -> None:
    traced = trace_model(CASES[case]())
    inputs = inputs_of(traced, 64)
    criterion = obs_criterion(lambda: inputs)
    ordered = eliminations(traced, gram_matrices(traced, inputs, original_targets(traced, inputs)))
    for group in traced.prunable:
        for count in range(group.floor, group.channels, group.step):
            kept = select(traced, {group.name: count}, criterion)[group.name]
            np.testing.assert_array_equal(kept, ordered[group.name].kept(count))


def test_one_of_two_equal_channels_goes_first_and_costs_next_to_nothing() -> None:
    proto = models.plain((8, 8), size=8)
    for tensor in proto.graph.initializer:
        if tensor.name == "conv1.weight" or tensor.name.startswith("bn1."):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[5] = array[2]
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    elimination = eliminations(*traced_with_matrices(proto, 256))["conv1"]
    assert elimination.order[0] in (2, 5)
    assert set(elimination.order[:3]) != {2, 5}
    assert elimination.error(7) < 0.1 * elimination.error(6)  # the ridge alone


def test_a_group_that_no_layer_reads_goes_by_its_norm() -> None:
    traced, matrices = traced_with_matrices(attention(), choices=Choices(attention="dims"))
    group = next(g for g in traced.prunable if set(g.layers) <= {"q", "k"})
    elimination = eliminations(traced, matrices)[group.name]
    squares = np.bincount(elimination.class_of, weights=l2(traced, group) ** 2)
    assert elimination.order.tolist() == np.argsort(squares).tolist()
    shares = np.cumsum(np.sort(squares)) / squares.sum()
    np.testing.assert_allclose(elimination.errors, [0, *shares])


def test_without_matrices_every_group_has_an_order_and_an_error_up_to_one() -> None:
    traced = trace_model(models.residual(8, size=8))
    for elimination in eliminations(traced, {}).values():
        assert sorted(elimination.order) == list(range(len(elimination.order)))
        assert elimination.errors[-1] == pytest.approx(1)


def test_fewer_samples_than_features_leave_finite_errors() -> None:
    traced, matrices = traced_with_matrices(models.fully_connected(8, hidden=32), count=3)
    for elimination in eliminations(traced, matrices).values():
        assert np.isfinite(elimination.errors).all()
        assert (np.diff(elimination.errors) >= 0).all()
        assert sorted(elimination.order) == list(range(len(elimination.order)))


def test_channels_that_are_always_zero_go_first() -> None:
    proto = models.plain((8, 8), size=8)
    for tensor in proto.graph.initializer:
        if tensor.name in ("bn1.scale", "bn1.bias"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[[1, 6]] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    elimination = eliminations(*traced_with_matrices(proto))["conv1"]
    assert set(elimination.order[:2]) == {1, 6}
    assert elimination.error(6) < 0.1 * elimination.error(5)  # the ridge alone


def test_errors_on_held_out_inputs_are_those_of_the_layers_solved_with_few() -> None:
    traced = trace_model(models.grouped(8, size=8, groups=2))
    few, others = ({"image": images(n)["image"][n // 2 :]} for n in (6, 256))
    matrices, held_out = (gram_matrices(traced, x, original_targets(traced, x, samples=48)) for x in (few, others))
    fitted = eliminations(traced, matrices)
    for name, elimination in eliminations(traced, matrices, held_out).items():
        np.testing.assert_array_equal(elimination.order, fitted[name].order)
        assert (np.diff(elimination.errors) >= 0).all()
        assert elimination.errors[0] == 0
        half = traced.group(name).channels // 2
        direct = solved_error(traced, matrices, {name: elimination.kept(half)}, held_out)
        assert elimination.error(half) == pytest.approx(direct, rel=TOLERANCE)
        assert direct is not None and direct > fitted[name].error(half)


SPECIAL = [
    key for key, case in OPERATORS.items() if case.__module__ in (quantised_cases.__name__, attention_cases.__name__)
]


@pytest.mark.parametrize(("domain", "op"), SPECIAL)
def test_integer_weights_and_fused_attention_have_an_order_too(domain: str, op: str) -> None:
    traced = trace_model(build(domain, op))
    inputs = inputs_of(traced, 4)
    ordered = eliminations(traced, gram_matrices(traced, inputs, original_targets(traced, inputs)))
    assert ordered.keys() == {group.name for group in traced.prunable}
    for elimination in ordered.values():
        assert sorted(elimination.order) == list(range(len(elimination.order)))
        assert np.isfinite(elimination.errors).all()
        assert (np.diff(elimination.errors) >= 0).all()
