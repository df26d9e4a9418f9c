"""The networks of the coverage benchmark: built with random weights, exported to ONNX.

BatchNorm's statistics and scales are random too, and so are all biases: defaults would hide errors. The biases tell
channels apart besides: which of them a pruner kept is read off those that are left.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    import torch

EXPORTERS = ("legacy", "dynamo")
IMAGE_SIZE = 224  # what every one of them takes; Inception and AlexNet take less and more as well

TORCHVISION = tuple(
    """alexnet vgg11_bn vgg16 resnet18 resnet50 wide_resnet50_2 resnext50_32x4d densenet121 googlenet inception_v3
    squeezenet1_0 squeezenet1_1 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet1_0 shufflenet_v2_x0_5
    shufflenet_v2_x1_0 efficientnet_b0 efficientnet_v2_s regnet_y_400mf regnet_x_400mf regnet_x_1_6gf convnext_tiny
    convnext_small swin_t swin_v2_t vit_b_16 maxvit_t resnet34""".split()
)
# One small member of each family.
TIMM = tuple(
    """resnetv2_50 seresnet18 cspresnet50 res2net50_14w_8s hrnet_w18_small ghostnet_100 mixnet_s hardcorenas_a dla34
    dpn68 vovnet39a nfnet_l0 rexnet_100 repvgg_a0 mobileone_s0 efficientformer_l1 levit_128s deit_tiny_patch16_224
    cait_xxs24_224 crossvit_tiny_240 coat_tiny pit_ti_224 poolformer_s12 mixer_s32_224 gmlp_s16_224 resmlp_12_224
    convit_tiny xcit_nano_12_p16_224 mobilevit_xxs edgenext_xx_small fastvit_t8 lcnet_050 selecsls42b
    convmixer_768_32 visformer_tiny twins_svt_small nest_tiny focalnet_tiny_srf mvitv2_tiny davit_tiny
    inception_next_tiny repvit_m1 starnet_s1 mobilenetv4_conv_small hgnet_tiny efficientvit_b0 skresnet18 regnetz_b16
    botnet26t_256 lambda_resnet26t gcresnet33ts""".split()
)


def make_importable(folders: Sequence[str], first: Sequence[str] = ()) -> None:
    """Put folders ahead on the import path and import some modules that others need."""
    sys.path[:0] = [folder for folder in folders if folder]
    for module in first:
        importlib.import_module(module)


def network(suite: str, name: str, seed: int = 0) -> torch.nn.Module:
    """A network by name with seeded random weights, in evaluation mode; the same on every call."""
    import torch

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suite == "timm":
            import timm

            module = timm.create_model(name, pretrained=False)
        else:
            import torchvision

            # Their second outputs serve training only.
            options = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
            module = torchvision.models.get_model(name, weights=None, **options)
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.2, generator=draw)
                part.running_var.uniform_(0.5, 1.5, generator=draw)
                part.weight.uniform_(0.5, 1.5, generator=draw)
            if isinstance(getattr(part, "bias", None), torch.nn.Parameter):
                part.bias.normal_(0, 0.1, generator=draw)
        for parameter in module.parameters():
            # A last layer of zeros or a scale of 1e-6 would make all that comes before it invisible in the outputs.
            if parameter.numel() > 1 and parameter.min() == parameter.max():
                if parameter.ndim > 1 and parameter.shape[-1] > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=draw)
                else:
                    parameter.uniform_(0.5, 1.5, generator=draw)
    return module.eval()


def example(suite: str, module: torch.nn.Module, image_size: int | None) -> torch.Tensor:
    """One random image of the size that a network wants."""
    import torch

    size = image_size or IMAGE_SIZE
    if suite == "timm" and image_size is None:
        size = module.default_cfg["input_size"][-1]
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2))


def export(module: torch.nn.Module, image: torch.Tensor, exporter: str, file: Path) -> Path:
    """Write a module as ONNX with one of torch's exporters at its defaults, weights included."""
    import torch

    part = file.with_name(f"{file.name}.part{os.getpid()}")
    with _quiet():
        torch.onnx.export(
            module, (image,), str(part), dynamo=exporter == "dynamo", input_names=["image"], output_names=["logits"],
            verbose=False,
        )  # fmt: skip
    onnx.save(onnx.load(part), file)
    for leftover in (part, part.with_name(f"{part.name}.data")):
        leftover.unlink(missing_ok=True)
    return file


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def with_random_weights(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Draw weights for layers that hold one constant throughout, as files that are meant to be light do.

    With constant weights outputs do not depend on inputs, so nothing could be proven.
    """
    rng = np.random.default_rng(seed)
    slots = {name: (node.op_type, i) for node in model.graph.node for i, name in enumerate(node.input)}
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        op, slot = slots.get(tensor.name, ("", 0))
        if values.size < 2 or np.ptp(values) > 0 or op not in ("Conv", "Gemm", "MatMul", "BatchNormalization"):
            continue
        if op == "BatchNormalization":
            drawn = rng.uniform(0.5, 1.5, values.shape) if slot in (1, 4) else rng.normal(0, 0.1, values.shape)
        else:
            fan_in = int(np.prod(values.shape[1:])) if values.ndim > 1 else 100
            drawn = rng.normal(0, np.sqrt(2 / fan_in) if values.ndim > 1 else 0.1, values.shape)
        tensor.CopyFrom(numpy_helper.from_array(drawn.astype(np.float32), tensor.name))
    return model


def with_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """Write shapes into the inputs of these names, where a file leaves more open than the batch."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    return model
