"""Every rule answers for every axis of every input: a channel there follows to the outputs, or it stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import helper, numpy_helper

import attention_cases  # noqa: F401 - registers its cases
import control_cases  # noqa: F401 - likewise
import quantised_cases  # noqa: F401 - likewise
import sampling_cases  # noqa: F401 - likewise
from any_axis import Operator, operators, probed
from netadapt_onnx.graph.runtime import random_inputs, run, session
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.cut import KeptIndices
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.rules.registry import RULES
from netadapt_onnx.surgery.trace import Trace, trace
from netadapt_onnx.surgery.verify.prove import verify
from rule_cases import OPSETS, build

# One of the operators that share a rule with dozens of others stands for all of them.
ALIKE = {RULES["", "Abs"]: "Abs", RULES["", "Add"]: "Add", RULES["", "ReduceMean"]: "ReduceMean"}
REGISTERED = [(domain, op) for domain, op in sorted(RULES) if ALIKE.get(RULES[domain, op], op) == op]
FLOAT, INT64, INT32 = np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.int32)


def assert_every_axis_follows_or_stays(operator: Operator, choices: str = "heads") -> Trace | None:
    """Cut every group at random: all shapes are what they should be, and pruned equals masked."""
    folded = probed(operator)
    if folded is None or folded.unrunnable:
        return None
    outputs = tuple(value.name for value in folded.proto.graph.output)
    traced = trace(folded, Choices(choices, outputs))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    counts = {g.name: g.step * int(rng.integers(1, g.channels // g.step + 1)) for g in traced.prunable}
    order = {g.name: rng.random(g.channels) for g in traced.prunable}
    keep = select(traced, counts, lambda _, group: order[group.name])
    assert_shapes_are_those_planned(traced, keep)
    result = verify(traced, keep, runs=2)
    assert result.exact, (keep, result)
    return traced


def assert_shapes_are_those_planned(traced: Trace, keep: KeptIndices) -> None:
    cut = resize(traced, keep)
    planned, sampled = traced.resized_shapes(keep), traced.folded.sampled
    names = [n for node in cut.graph.node for n in node.output if n in traced.folded.shapes and n not in sampled]
    inputs = random_inputs({v.name: traced.folded.specs[v.name] for v in cut.graph.input})
    values = run(session(cut, outputs=names, optimise=False), inputs)
    assert {name: values[name].shape for name in names} == {name: planned[name] for name in names}


@pytest.mark.parametrize(("domain", "op"), REGISTERED, ids=lambda value: value or "onnx")
def test_a_channel_on_any_axis_of_any_input_follows_to_the_output_or_stays(domain: str, op: str) -> None:
    for operator in operators(build(domain, op), domain, op):
        for choices in ("heads", "dims") if "Attention" in op or "MatMul" in op else ("heads",):
            assert_every_axis_follows_or_stays(operator, choices)


def single(
    op: str,
    inputs: dict[str, tuple[Sequence[int], np.dtype]],  # type: ignore[type-arg]
    order: str,
    outputs: str = "y",
    *,
    domain: str = "",
    constants: dict[str, np.ndarray] | None = None,  # type: ignore[type-arg]
    opset: int = 20,
    **attributes: object,
) -> Operator:
    """An operator whose inputs, in this order, are computed or constant; a `-` leaves one out."""
    names = [name.replace("-", "") for name in order.split()]
    results = [name.replace("-", "") for name in outputs.split()]
    return Operator(
        helper.make_node(op, names, results, name=op, domain=domain, **attributes),
        tuple(numpy_helper.from_array(value, name) for name, value in (constants or {}).items()),
        {name: (tuple(shape), dtype) for name, (shape, dtype) in inputs.items()},
        {name: INT64 if name == "indices" else FLOAT for name in results if name},
        (helper.make_opsetid("", OPSETS.get(op, opset)), helper.make_opsetid("com.microsoft", 1)),
    )


def f(*shape: int) -> tuple[Sequence[int], np.dtype]:  # type: ignore[type-arg]
    return shape, FLOAT


def normal(*shape: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


MICROSOFT = "com.microsoft"
# Several inputs with a batch, or with another axis that they share: what cases of one input each do not show.
SHARED = {
    "grid": single("GridSample", {"x": f(4, 6, 5, 5), "grid": f(4, 3, 7, 2)}, "x grid"),
    "volume": single("GridSample", {"x": f(4, 6, 3, 5, 4), "grid": f(4, 2, 3, 3, 3)}, "x grid"),
    "fixed grid": single("GridSample", {"x": f(4, 6, 5, 5)}, "x grid", constants={"grid": normal(4, 3, 7, 2)}),
    "fixed map": single("GridSample", {"grid": f(4, 3, 7, 2)}, "x grid", constants={"x": normal(4, 6, 5, 5)}),
    "regions": single(
        "RoiAlign",
        {"x": f(2, 6, 5, 5), "rois": f(3, 4), "at": ((3,), INT64)},
        "x rois at",
        output_height=2,
        sampling_ratio=2,
    ),
    "deformed": single(
        "DeformConv",
        {"x": f(2, 6, 5, 5), "offset": f(2, 18, 5, 5), "mask": f(2, 9, 5, 5)},
        "x w offset b mask",
        constants={"w": normal(4, 6, 3, 3), "b": normal(4)},
        pads=[1, 1, 1, 1],
    ),
    "product of batches": single("MatMul", {"a": f(3, 4, 5, 6), "b": f(4, 6, 7)}, "a b"),
    "einsum of batches": single("Einsum", {"a": f(3, 4, 5), "b": f(3, 5, 6)}, "a b", equation="bij,bjk->bik"),
    "outer product": single("Einsum", {"a": f(4, 5), "b": f(4, 6)}, "a b", equation="bi,bj->bij"),
    "computed matrix": single("Gemm", {"a": f(4, 5), "c": f(4, 6)}, "a b c", constants={"b": normal(5, 6)}),
    "computed column": single("Gemm", {"a": f(4, 5), "c": f(4, 1)}, "a b c", constants={"b": normal(5, 6)}),
    "computed weights": single("Gemm", {"a": f(4, 5), "b": f(6, 5), "c": f(6)}, "a b c", transB=1),
    "attention": single(
        "Attention",
        {"q": f(2, 4, 5, 6), "k": f(2, 2, 7, 6), "v": f(2, 2, 7, 3), "mask": f(2, 4, 5, 7)},
        "q k v mask",
    ),
    "attention with caches": single(
        "Attention",
        {"q": f(2, 4, 5, 6), "k": f(2, 2, 3, 6), "v": f(2, 2, 3, 6), "pk": f(2, 2, 4, 6), "pv": f(2, 2, 4, 6)},
        "q k v - pk pv",
        "y present_k present_v",
    ),
    "attention with a mask of rows": single(
        "Attention",
        {"q": f(2, 5, 24), "k": f(2, 7, 24), "v": f(2, 7, 12), "mask": f(5, 7)},
        "q k v mask",
        q_num_heads=4,
        kv_num_heads=4,
    ),
    "fused attention": single(
        "MultiHeadAttention",
        {"q": f(2, 5, 24), "k": f(2, 7, 24), "v": f(2, 7, 24), "bias": f(2, 4, 5, 7)},
        "q k v - - bias",
        domain=MICROSOFT,
        num_heads=4,
    ),
    "attention with a padding mask": single(
        "MultiHeadAttention",
        {"q": f(2, 5, 24), "k": f(2, 7, 24), "v": f(2, 7, 24), "mask": ((2, 7), INT32)},
        "q k v - mask",
        domain=MICROSOFT,
        num_heads=4,
    ),
    "projected attention": single(
        "Attention",
        {"x": f(2, 5, 8), "mask": ((2, 5), INT32)},
        "x w b mask",
        domain=MICROSOFT,
        constants={"w": normal(8, 36), "b": normal(36)},
        num_heads=4,
    ),
    "lstm": single(
        "LSTM",
        {"x": f(4, 3, 5), "lengths": ((3,), INT32), "h": f(1, 3, 6), "c": f(1, 3, 6)},
        "x w r b lengths h c",
        "y y_h y_c",
        constants={"w": normal(1, 24, 5), "r": normal(1, 24, 6), "b": normal(1, 48)},
        hidden_size=6,
    ),
    "gru": single(
        "GRU",
        {"x": f(4, 3, 5), "h": f(1, 3, 6)},
        "x w r - - h",
        "y y_h",
        constants={"w": normal(1, 18, 5), "r": normal(1, 18, 6)},
        hidden_size=6,
    ),
    "layer norm's statistics": single(
        "LayerNormalization",
        {"x": f(3, 4, 6)},
        "x s b",
        "y mean deviation",
        constants={"s": normal(6), "b": normal(6)},
        axis=-1,
    ),
    "added before a norm": single(
        "SkipLayerNormalization",
        {"x": f(3, 4, 6), "skip": f(3, 4, 6)},
        "x skip s b",
        "y - - sum",
        domain=MICROSOFT,
        constants={"s": normal(6), "b": normal(6)},
    ),
    "computed statistics": single(
        "BatchNormalization",
        {"x": f(3, 4, 6), "s": f(4), "b": f(4)},
        "x s b m v",
        constants={"m": normal(4), "v": abs(normal(4))},
    ),
    "computed scale": single("InstanceNormalization", {"x": f(3, 4, 6), "s": f(4), "b": f(4)}, "x s b"),
    "chosen": single("Where", {"c": ((4, 1, 6), np.dtype(bool)), "a": f(4, 5, 6), "b": f(5, 6)}, "c a b"),
    "computed slope": single("PRelu", {"x": f(3, 4, 6), "slope": f(4, 1)}, "x slope"),
    "joined": single("Concat", {"a": f(3, 4, 6), "b": f(3, 2, 6)}, "a b", axis=1),
    "picked": single("Gather", {"x": f(3, 4, 6), "at": ((3, 2), INT64)}, "x at", axis=1),
    "picked one by one": single("GatherElements", {"x": f(3, 4), "at": ((3, 4), INT64)}, "x at", axis=1),
    "picked by batch": single("GatherND", {"x": f(3, 4, 6), "at": ((3, 1), INT64)}, "x at", batch_dims=1),
    "scattered": single("ScatterND", {"x": f(3, 4), "at": ((1, 1), INT64), "u": f(1, 4)}, "x at u"),
    "the largest": single("TopK", {"x": f(3, 4, 6)}, "x k", "y indices", constants={"k": np.array([2])}, axis=1),
    "reversed": single(
        "ReverseSequence", {"x": f(3, 4, 6), "lengths": ((4,), INT64)}, "x lengths", batch_axis=1, time_axis=0
    ),
    "turned": single("RotaryEmbedding", {"x": f(2, 4, 5, 6), "cos": f(2, 5, 3), "sin": f(2, 5, 3)}, "x cos sin"),
    "theta": single("AffineGrid", {"theta": f(3, 2, 3)}, "theta size", constants={"size": np.array([3, 4, 5, 6])}),
    "convolved and added": single(
        "FusedConv",
        {"x": f(2, 6, 5, 5), "z": f(2, 4, 5, 5)},
        "x w b z",
        domain=MICROSOFT,
        constants={"w": normal(4, 6, 1, 1), "b": normal(4)},
        activation="Relu",
    ),
}


@pytest.mark.parametrize("choices", ["heads", "dims"])
@pytest.mark.parametrize("name", SHARED)
def test_inputs_that_share_an_axis_lose_the_same_of_it(name: str, choices: str) -> None:
    if choices == "dims" and "ttention" not in name and name not in ("grid", "turned"):
        return
    assert assert_every_axis_follows_or_stays(SHARED[name], choices) is not None, "the operator cannot be run"


def prunable(name: str, choices: str = "heads") -> set[str]:
    traced = assert_every_axis_follows_or_stays(SHARED[name], choices)
    assert traced is not None
    return {group.name for group in traced.prunable if group.name.startswith(("in", "all"))}


def test_heads_on_the_batch_of_map_and_grid_are_one_group() -> None:
    for name in ("grid", "volume"):
        assert {"in0.1", "all0.0", "all0.1"} == prunable(name)
    assert {"in0.0", "in0.1", "all0.0", "all0.1"} == prunable("fixed grid")
    assert {"in1.0", "all1.0"} == prunable("fixed map")


def test_an_input_that_no_rule_asks_for_stays() -> None:
    reasons = {}
    for name, group in (("lstm", "in4.0"), ("attention with a padding mask", "in4.1"), ("reversed", "in1.0")):
        traced = assert_every_axis_follows_or_stays(SHARED[name])
        assert traced is not None
        reasons[name] = traced.group(group).reason
    assert all("reads it as a whole" in str(reason) for reason in reasons.values()), reasons
