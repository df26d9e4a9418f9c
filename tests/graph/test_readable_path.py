"""Paths of nodes, from what exporters write."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from netadapt_onnx.graph.readable_path import readable_paths


def node(name: str, *inputs: str, op: str = "Conv", scopes: str = "") -> onnx.NodeProto:
    one = helper.make_node(op, inputs or ["x", "onnx::Conv_86"], ["y"], name=name)
    if scopes:
        one.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    return one


@pytest.mark.parametrize(
    ("one", "path"),
    [
        (node("/layer1/layer1.0/conv1/Conv"), "layer1.0.conv1"),
        (node("/Conv"), "/Conv"),
        (node("/fc/MatMul_1", op="MatMul"), "fc"),
        (node("model/stem/Conv2D"), "model.stem.Conv2D"),
        (node("node_conv2d_3", "x", "layer1.0.conv1.weight"), "layer1.0.conv1"),
        (node("Conv_0", "x", "671"), "Conv_0"),
        (node("n", "x", "w", scopes="['', 'layer1', 'layer1.0', 'conv2d_1']"), "layer1.0"),
        (node("n", "x", "w", scopes="['conv2d_1']"), "n"),
        (node("n", "x", "w", scopes="[1, 2]"), "n"),
        (node("n", "x", "w", scopes="[" * 100_000), "n"),
    ],
)
def test_a_path_is_what_the_network_calls_a_node(one: onnx.NodeProto, path: str) -> None:
    assert readable_paths([one]) == {one.name: path}


def test_nodes_that_would_share_a_path_keep_their_names() -> None:
    nodes = [node(f"/attention/MatMul{suffix}", op="MatMul") for suffix in ("", "_1")]
    assert readable_paths([*nodes, node("/out/Conv")]) == {
        "/attention/MatMul": "/attention/MatMul",
        "/attention/MatMul_1": "/attention/MatMul_1",
        "/out/Conv": "out",
    }
