"""Every op that training knows computes what onnxruntime computes, and passes gradients where it should.

`-k movement` tests the ops of `training/ops/movement.py`, and so on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.runtime import run, session
from netadapt_onnx.training.ops.registry import registered
from netadapt_onnx.training.torch_graph import TorchGraph
from op_cases import CASES, Case, f

TOLERANCE = 2e-5  # relative to the output's standard deviation, or to 1 where it is smaller

# What they put out is read by Python, or tells Python how long it is.
ON_THE_CPU = {"Shape", "Size", "Range", "ConstantOfShape", "NonZero", "EyeLike"}
LAYERS = {"Conv", "ConvTranspose", "Gemm", "LSTM", "GRU", "RNN", "LayerNormalization"}


def selected(is_selected: Callable[[str], bool]) -> list[object]:
    """The cases of some ops, each named after the file of its op, the op and its version."""
    return [
        pytest.param(case, id=f"{file}-{case.op}-{case.opset}")
        for file, cases in CASES.items()
        for case in cases
        if is_selected(case.op)
    ]


def reference(case: Case) -> dict[str, np.ndarray]:
    """onnxruntime's outputs; ONNX's own reference implementation for what onnxruntime has no kernel for."""
    model = case.model()
    if case.op in ("Swish", "Hardmax", "Pad", "BitwiseAnd", "BitwiseOr"):
        from onnx.reference import ReferenceEvaluator

        try:
            return run(session(model, optimise=False), case.feeds())
        except NetadaptError:
            names = [value.name for value in model.graph.output]
            return dict(zip(names, ReferenceEvaluator(model).run(None, case.feeds()), strict=True))
    return run(session(model, optimise=False), case.feeds())


@pytest.mark.parametrize("case", selected(lambda op: True))
def test_op_equals_onnxruntime(case: Case) -> None:
    graph = TorchGraph(case.model()).eval()
    with torch.no_grad():
        outputs = graph({name: torch.from_numpy(np.array(value)) for name, value in case.feeds().items()})
    for name, expected in reference(case).items():
        value = outputs[name].numpy()
        assert value.shape == expected.shape
        assert (value.dtype.kind == expected.dtype.kind) or case.op == "Dropout"
        scale = max(1.0, float(np.std(expected.astype(np.float64))))
        np.testing.assert_allclose(value.astype(np.float64), expected, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("case", selected(lambda op: op not in ON_THE_CPU))
def test_ops_compute_where_their_inputs_are(case: Case) -> None:
    """On a device of shapes without values, which mixes with the CPU no more than a GPU does."""
    graph = TorchGraph(case.model()).eval()
    inputs = {name: torch.from_numpy(value) for name, value in case.feeds().items()}
    on_cpu = graph(inputs)
    on_meta = graph.to("meta")({name: value.to("meta") for name, value in inputs.items()})
    for name, expected in on_cpu.items():
        value = on_meta[name]
        assert (value.device.type, value.shape, value.dtype) == ("meta", expected.shape, expected.dtype)


def test_broadcasting_as_it_was_before_opset_7() -> None:
    case = Case("Add", (f(2, 3, 4), f(3)), {"axis": 1, "broadcast": 1}, opset=6)
    outputs = TorchGraph(case.model())({name: torch.from_numpy(value) for name, value in case.feeds().items()})["out0"]
    np.testing.assert_allclose(outputs.numpy(), case.inputs[0] + case.inputs[1][:, None], rtol=0, atol=1e-6)


def test_every_registered_op_has_a_case() -> None:
    cases = [case for of_file in CASES.values() for case in of_file]
    covered = {f"{case.domain}::{case.op}" if case.domain else case.op for case in cases}
    assert covered == set(registered())


@pytest.mark.parametrize("case", selected(lambda op: op in LAYERS))
def test_layers_pass_gradients_to_all_their_weights(case: Case) -> None:
    weights = tuple(i for i in range(1, min(4, len(case.inputs))) if case.inputs[i] is not None)
    fixed = Case(case.op, case.inputs, case.attributes, case.opset, case.outputs, case.domain, weights)
    graph = TorchGraph(fixed.model()).train()
    assert set(graph.weights) == {f"in{i}" for i in weights}
    outputs = graph({name: torch.from_numpy(value) for name, value in fixed.feeds().items()})
    torch.autograd.backward([value.pow(2).sum() for value in outputs.values()])
    for name, weight in graph.weights.items():
        assert weight.grad is not None, name
        assert float(weight.grad.abs().max()) > 0, name


def test_unknown_ops_are_all_listed() -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["a"], "first"),
        helper.make_node("Det", ["x"], ["b"], "second"),
        helper.make_node("StringNormalizer", ["x"], ["c"], "third"),
    ]
    values = [helper.make_tensor_value_info("x", 1, [2, 2])]
    graph = helper.make_graph(nodes, "g", values, [onnx.ValueInfoProto(name="c")])
    with pytest.raises(NetadaptError, match=r"Det \(in 'first' and 1 more\); StringNormalizer \(in 'third'\)"):
        TorchGraph(helper.make_model(graph))
