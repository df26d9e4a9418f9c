"""A model's own functions are inlined, as long as that is no trap."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from large_graphs import between, node
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.passes.inline_functions import DEEPEST, inline_functions


def called(depth: int, times: int) -> onnx.ModelProto:
    """Functions that each call the one before `times` times."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    own = [helper.make_function("own", "F0", ["a"], ["b"], [node("Relu", ["a"], ["b"])], opsets)]
    for i in range(1, depth):
        names = ["a", *(f"m{k}" for k in range(times - 1)), "b"]
        inner = [node(f"F{i - 1}", [names[k]], [names[k + 1]], domain="own") for k in range(times)]
        own.append(helper.make_function("own", f"F{i}", ["a"], ["b"], inner, opsets))
    return between([node(f"F{depth - 1}", ["t0"], ["t"], domain="own")], "t", functions=own)


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    assert inline_functions(proto).changed
    return proto


def test_functions_are_inlined_if_few_nodes_come_of_them() -> None:
    assert sum(n.op_type == "Relu" for n in inlined(called(6, 2)).graph.node) == 32
    assert sum(n.op_type == "Relu" for n in inlined(called(DEEPEST - 1, 1)).graph.node) == 1


@pytest.mark.parametrize(
    ("depth", "times", "message"),
    [(30, 2, "come to 1.61e[+]09 nodes"), (1000, 1, "1001 levels deep"), (20_000, 1, "20001 levels deep")],
)
def test_functions_that_would_fill_the_memory_or_the_stack_are_refused(depth: int, times: int, message: str) -> None:
    with pytest.raises(NetadaptError, match=message) as error:
        inline_functions(called(depth, times))
    assert error.value.code == "too-large"


def test_functions_that_call_themselves_are_refused() -> None:
    model = called(3, 1)
    model.functions[0].node[0].op_type = "F2"
    model.functions[0].node[0].domain = "own"
    with pytest.raises(NetadaptError, match=r"own::F[012] calls itself"):
        inline_functions(model)
