"""A network's own class at the new widths, filled by a plan, computes what the pruned file does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import models
import netadapt_onnx
from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.model import load
from netadapt_onnx.graph.runtime import run, session


class Block(nn.Module):
    """A residual block with a depthwise convolution; `inner` channels inside."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.project = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norm(self.expand(x)))
        out: Tensor = x + self.project(torch.relu(self.depthwise(inner)))
        return out


class Network(nn.Module):
    """A convolution in groups, residual blocks, a map that is flattened, linear layers; built at any widths."""

    def __init__(self, stem: int, inner: tuple[int, int], hidden: int, groups: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.blocks = nn.Sequential(Block(stem, inner[0]), Block(stem, inner[1]))
        self.grouped = nn.Conv2d(stem, stem, 3, stride=4, padding=1, groups=groups)
        self.linear = nn.Linear(stem * 4, hidden)
        self.classifier = nn.Linear(hidden, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.grouped(self.blocks(torch.relu(self.stem(image)))))
        out: Tensor = self.classifier(torch.relu(self.linear(x.flatten(1))))
        return out


class Mixer(nn.Module):
    """Linear layers over a sequence, which are matrix products with transposed weights in the file."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.up = nn.Linear(12, hidden)
        self.down = nn.Linear(hidden, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = tokens + self.down(nn.functional.gelu(self.up(self.norm(tokens))))
        return out


class Shuffle(nn.Module):
    """A channel shuffle, whose order of channels is in the code: a cut needs another one there."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 1)
        self.second = nn.Conv2d(32, 32, 1, groups=2)
        self.classifier = nn.Linear(32, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.channel_shuffle(torch.relu(self.first(image)), 2)
        out: Tensor = self.classifier(torch.relu(self.second(x)).mean((2, 3)))
        return out


def trained_looking(module: nn.Module) -> nn.Module:
    """With statistics and scales as a training leaves them: no two vectors are equal."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if "var" in name else 0.0))
    return module.eval()


def widths_of_network(state: dict[str, Tensor]) -> nn.Module:
    inner = (len(state["blocks.0.expand.weight"]), len(state["blocks.1.expand.weight"]))
    stem, groups = len(state["stem.weight"]), len(state["stem.weight"]) // state["grouped.weight"].shape[1]
    return Network(stem, inner, len(state["linear.weight"]), groups)


def compare(state: dict[str, Tensor], module: nn.Module, file: Path, inputs: dict[str, Tensor]) -> None:
    module.load_state_dict(state)
    with torch.no_grad():
        expected = module.eval()(*inputs.values()).numpy()
    (actual,) = run(session(load(file).proto), {name: x.numpy() for name, x in inputs.items()}).values()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_the_class_at_new_widths_equals_the_pruned_file(exporter: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, image = trained_looking(Network(16, (24, 20), 20)), torch.randn(2, 3, 8, 8)
    model, cut = tmp_path / "model.onnx", tmp_path / "small.onnx"
    netadapt_onnx.export_module(network, {"image": image[:1]}, model, exporter=exporter)  # type: ignore[arg-type]
    netadapt_onnx.prune(model, cut, ratio=0.5)
    state = netadapt_onnx.slice_state_dict(tmp_path / "small.plan.toml", network.state_dict())
    smaller = widths_of_network(state)
    assert sum(p.numel() for p in smaller.parameters()) < 0.5 * sum(p.numel() for p in network.parameters())
    compare(state, smaller, cut, {"image": image})
    assert list(state) == list(network.state_dict())


def test_weights_that_the_file_transposes_are_cut_as_pytorch_has_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, tokens = trained_looking(Mixer(32)), torch.randn(2, 7, 12)
    model, cut = tmp_path / "model.onnx", tmp_path / "small.onnx"
    netadapt_onnx.export_module(network, {"tokens": tokens[:1]}, model)
    netadapt_onnx.prune(model, cut, ratio=0.5)
    state = netadapt_onnx.slice_state_dict(tmp_path / "small.plan.toml", network.state_dict())
    assert tuple(state["down.weight"].shape) == (12, 16)
    compare(state, Mixer(16), cut, {"tokens": tokens})


def most_channels(proto: onnx.ModelProto) -> float:
    """Judges by how many channels the 1x1 convolutions have lost: to lose a whole one costs nothing."""
    widths = [t.dims[0] for t in proto.graph.initializer if t.name.endswith("expand.weight")]
    return 1 - 0.01 * sum(24 - width for width in widths)


def test_the_plan_of_a_search_that_removed_a_block_leaves_its_tensors_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, image = trained_looking(Network(16, (24, 24), 20)), torch.randn(1, 3, 8, 8)
    netadapt_onnx.export_module(network, {"image": image}, tmp_path / "model.onnx")
    options = {"evaluate": most_channels, "step": 4, "freeze": ["stem"]}
    result = netadapt_onnx.adapt(tmp_path / "model.onnx", None, "macs=0.6x", tmp_path / "run", **options)  # type: ignore[arg-type]
    assert result.removed
    plan = tmp_path / "run" / "iterations" / f"{result.iterations:03d}" / "plan.toml"
    state = netadapt_onnx.slice_state_dict(plan, network.state_dict())
    shapes = {t.name: tuple(t.dims) for t in load(result.model).proto.graph.initializer}
    parameters = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
    assert parameters - set(state) == parameters - set(shapes) != set()
    assert {name: tuple(state[name].shape) for name in parameters & set(state)} == {
        name: shape for name, shape in shapes.items() if name in parameters
    }
    gone = {name.rpartition(".")[0] for name in parameters - set(state)}
    assert not [name for name in state if name.rpartition(".")[0] in gone]


def test_a_tensor_that_modules_share_is_cut_under_all_of_its_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, tokens = trained_looking(Mixer(32)), torch.randn(1, 7, 12)
    netadapt_onnx.export_module(network, {"tokens": tokens}, tmp_path / "model.onnx")
    netadapt_onnx.prune(tmp_path / "model.onnx", tmp_path / "small.onnx", ratio=0.5)
    state = network.state_dict()
    state["tied.weight"] = state["up.weight"]
    cut = netadapt_onnx.slice_state_dict(tmp_path / "small.plan.toml", state)
    assert torch.equal(cut["tied.weight"], cut["up.weight"])


def test_a_state_dict_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, tokens = trained_looking(Mixer(32)), torch.randn(1, 7, 12)
    netadapt_onnx.export_module(network, {"tokens": tokens}, tmp_path / "model.onnx")
    netadapt_onnx.prune(tmp_path / "model.onnx", tmp_path / "small.onnx", ratio=0.5)
    plan, state = tmp_path / "small.plan.toml", network.state_dict()
    with pytest.raises(NetadaptError, match=r"lacks 3 of the 3 tensors.*remove the prefix 'module\.'"):
        netadapt_onnx.slice_state_dict(plan, {f"module.{name}": value for name, value in state.items()})
    with pytest.raises(NetadaptError, match=r"lacks 3 of the 3 tensors.*netadapt-onnx export"):
        netadapt_onnx.slice_state_dict(plan, {})
    with pytest.raises(NetadaptError, match=r"lacks 3 of the 3 tensors.*give the entry 'weights' of this checkpoint"):
        netadapt_onnx.slice_state_dict(plan, {"epoch": 3, "weights": state})  # type: ignore[dict-item]
    with pytest.raises(NetadaptError, match=r"'up.weight' is a ndarray in the state dict, not a torch tensor"):
        netadapt_onnx.slice_state_dict(plan, {name: value.numpy() for name, value in state.items()})  # type: ignore[misc]
    with pytest.raises(NetadaptError, match=r"'up.weight' has shape \(16, 12\).*\(32, 12\)"):
        netadapt_onnx.slice_state_dict(plan, Mixer(16).state_dict())


def test_a_constant_of_the_code_that_has_to_change_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, image = trained_looking(Shuffle()), torch.randn(1, 3, 6, 6)
    netadapt_onnx.export_module(network, {"image": image}, tmp_path / "model.onnx")
    netadapt_onnx.prune(tmp_path / "model.onnx", tmp_path / "small.onnx", ratio=0.5)
    with pytest.raises(NetadaptError, match=r"lacks 1 of the .*order of channels"):
        netadapt_onnx.slice_state_dict(tmp_path / "small.plan.toml", network.state_dict())


def test_a_tensor_of_which_layers_keep_different_parts_is_refused(tmp_path: Path) -> None:
    proto = models.plain((8, 8))
    second = [node for node in proto.graph.node if node.op_type == "BatchNormalization"][1]
    second.input[1] = "bn1.scale"
    onnx.save(proto, tmp_path / "model.onnx")
    plan = tmp_path / "plan.toml"
    plan.write_text("[groups]\nconv1 = [0, 1]\nconv2 = [2, 3, 4]\n")
    netadapt_onnx.prune(tmp_path / "model.onnx", tmp_path / "small.onnx", plan=plan)
    state = netadapt_onnx.to_torch(tmp_path / "model.onnx").state_dict()
    with pytest.raises(NetadaptError, match=r"no rows and columns of 'bn1.scale' stay.*to_torch"):
        netadapt_onnx.slice_state_dict(tmp_path / "small.plan.toml", state)
