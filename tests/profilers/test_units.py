from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from models import ALL, plain, residual
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.profilers.agent import open_session
from netadapt_onnx.profilers.execution import CPU, execution_record
from netadapt_onnx.profilers.units import Kernel, Layers, family
from netadapt_onnx.surgery.criteria.selection import select
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import trace


def kernels_of(proto: onnx.ModelProto, folder: Path) -> tuple[Layers, list[Kernel]]:
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    open_session(folder / "model.onnx", execution_record(CPU), folder).end_profiling()
    graph = onnx.load(str(folder / "optimised.onnx"), load_external_data=False).graph
    return Layers(proto), Layers(proto).kernels(graph, {node.name: 1.0 for node in graph.node})


@pytest.mark.parametrize("name", ALL)
def test_every_kernel_is_traced_back(name: str, tmp_path: Path) -> None:
    proto = fold(ALL[name]()).proto
    _, kernels = kernels_of(proto, tmp_path)
    path = tmp_path / "optimised.onnx"
    assert len(kernels) == len(onnx.load(str(path), load_external_data=False).graph.node)
    weighted = {n.name for n in proto.graph.node if n.op_type in {"Conv", "ConvTranspose", "Gemm"}}
    assert weighted <= {layer for kernel in kernels for layer in kernel.layers}


def test_fused_neighbours_are_one_unit(tmp_path: Path) -> None:
    layers, kernels = kernels_of(fold(plain((16, 16))).proto, tmp_path)
    units = layers.units(kernel.layers for kernel in kernels)
    assert units["conv1"] == units["bn1"] == units["relu1"]
    assert units["conv1"].name == "conv1"
    assert units["conv1"].kind.startswith("Conv+BatchNormalization+Relu ")


def test_a_sum_fused_into_a_conv_counts_with_that_conv(tmp_path: Path) -> None:
    layers, kernels = kernels_of(fold(residual(16)).proto, tmp_path)
    units = layers.units(kernel.layers for kernel in kernels)
    assert units["add1"].name == units["relu3"].name == "conv3"
    assert len({units[f"conv{i}"].name for i in range(1, 6)}) == 5
    assert units["conv2"].kind == units["conv4"].kind != units["conv3"].kind


def test_versions_that_fuse_differently_share_units() -> None:
    layers = Layers(fold(plain((16, 16))).proto)
    units = layers.units([("conv1", "bn1"), ("relu1",), ("conv1", "bn1", "relu1"), ("conv2",)])
    assert units["relu1"].name == "conv1"
    assert units["conv2"].name == "conv2"


def test_layers_with_weights_are_units_of_their_own_whichever_takes_the_sum() -> None:
    layers = Layers(fold(residual(16)).proto)
    one, other = ("conv1", "bn1", "add1", "relu3"), ("conv3", "add1", "relu3")
    units = layers.units([one, ("conv3",), ("conv1", "bn1"), other])
    assert units["conv1"].name == "conv1"
    assert units["conv3"].name == "conv3"
    assert units["add1"] == units["relu3"] == units["conv1"]


@pytest.mark.parametrize("name", ALL)
def test_a_cut_model_is_of_the_same_family(name: str) -> None:
    result = trace(fold(ALL[name]()))
    counts = {g.name: max(g.floor, g.channels // 2 // g.step * g.step) for g in result.prunable}
    cut = resize(result, select(result, counts, "first"))
    assert family(cut) == family(fold(cut).proto) == family(result.folded.proto)


def test_families_differ_by_kernels_and_wiring() -> None:
    families = {family(fold(build()).proto) for build in ALL.values()}
    assert len(families) == len(ALL)
