"""Random small networks, and their gradients against float64; run as a program in a process that may die of it.

python random_networks.py FIRST LAST    # a line per network before it is tried, and one for every wrong number
"""

from __future__ import annotations

import random
import sys
from typing import Any

import onnx
import torch

from models import Builder
from netadapt_onnx.training.placement import autocast
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.torch_graph import TorchGraph

# Of the largest gradient. bfloat16 has eight bits, which stacked layers amplify (0.52 in 3000 networks); what is wrong
# is off by the gradient itself, or is no number.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.6}


def convolution(b: Builder, draw: random.Random, x: str, inputs: int, axes: int) -> tuple[str, int]:
    """One layer with odd counts, kernels and strides; returns its output and how many channels that has."""
    kernel = [draw.choice([1, 1, 3, 5])] * axes
    if draw.random() < 0.2:
        kernel = [draw.choice([1, 3, 5]) for _ in kernel]
    dilations = [draw.choice([1, 1, 2]) if k > 1 else 1 for k in kernel]
    pads = [d * (k // 2) for d, k in zip(dilations, kernel, strict=True)]
    if draw.random() < 0.2:
        pads[0] += 1
    attributes: dict[str, Any] = {
        "strides": [draw.choice([1, 2, 2, 3])] * axes,
        "dilations": dilations,
        "pads": pads * 2,
    }
    groups = draw.choice([1, 1, inputs, *(g for g in (2, 3) if inputs % g == 0)])
    outputs = groups * draw.randint(1, max(1, 24 // groups))
    name = b.name("conv")
    op = "ConvTranspose" if draw.random() < 0.25 else "Conv"
    if op == "ConvTranspose":
        attributes["pads"] = [min(p, d * (k - 1) // 2) for p, d, k in zip(pads, dilations, kernel, strict=True)] * 2
        shape = (inputs, outputs // groups, *kernel)
    else:
        shape = (outputs, inputs // groups, *kernel)
    weight = b.random(f"{name}.weight", shape, shape[1] * 3)
    bias = [b.random(f"{name}.bias", (outputs,))] if draw.random() < 0.5 else []
    return b.node(op, [x, weight, *bias], name, group=groups, **attributes), outputs


def network(seed: int) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A model and the shape of its input: convolutions over one, two or three axes, or a recurrent network."""
    draw = random.Random(seed)
    b = Builder(seed)
    batch = draw.choice([2, 3, 8])
    if draw.random() < 0.15:
        op, gates = draw.choice([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
        steps, inputs, hidden = draw.randint(1, 8), draw.randint(1, 20), draw.randint(1, 20)
        weights = [b.random(f"{n}", (1, gates * hidden, k), hidden * 2) for n, k in (("w", inputs), ("r", hidden))]
        linear = {"linear_before_reset": 1} if op == "GRU" else {}
        first = b.node(op, ["x", *weights, b.random("b", (1, 2 * gates * hidden))], hidden_size=hidden, **linear)
        second = [b.random(f"{n}2", (1, gates * hidden, hidden), hidden * 2) for n in ("w", "r")]
        flat = b.node("Squeeze", [first, b.constant("axis", [1])])
        b.node(op, [flat, *second], output="y", hidden_size=hidden, **linear)
        return b.model({"x": (steps, batch, inputs)}, {"y": (steps, 1, batch, hidden)}), (steps, batch, inputs)
    axes = draw.choice([1, 2, 2, 2, 2, 2, 3])
    sizes = [draw.choice([1, 2, 3, 6, 9, 12]) if axes < 3 else draw.choice([1, 3, 4]) for _ in range(axes)]
    channels = draw.choice([1, 3, 5, 8])
    shape = (batch, channels, *sizes)
    stem = draw.randint(1, 12)
    x = b.node(
        "Conv", ["x", b.random("stem", (stem, channels, *[1] * axes), channels)]
    )  # so that all inputs have gradients
    channels = stem
    for _ in range(2):
        x, channels = convolution(b, draw, x, channels, axes)
        if draw.random() < 0.4:
            x = b.node("Tanh", [x])  # smooth, and no BatchNorm over a handful of values: rounding stays rounding
        if draw.random() < 0.3 and axes == 2:
            x = b.node("AveragePool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return b.model({"x": shape}, {b.node("Sigmoid", [x], output="y"): ["?"] * len(shape)}), shape


def gradients(proto: onnx.ModelProto, x: torch.Tensor, settings: Settings | None) -> list[torch.Tensor]:
    """Of a random projection of the outputs; in float64 without settings."""
    graph = TorchGraph(proto).train()
    if settings is None:
        graph, x = graph.double(), x.double()
    else:
        graph.arrange(settings.channels_last)
        if settings.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
    with autocast(settings or Settings()):
        (y,) = graph(x).values()
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return list(torch.autograd.grad((y * direction.to(x.dtype)).sum(), list(graph.parameters())))


def wrong(seed: int) -> list[str]:
    """Settings in which a network's gradients are not those of float64."""
    proto, shape = network(seed)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    exact = gradients(proto, x, None)
    scale = max(float(g.abs().max()) for g in exact) + 1e-3
    mismatches = []
    for dtype, tolerance in TOLERANCES.items():
        for last in (False, True):
            try:
                computed = gradients(proto, x, Settings(dtype, last))  # type: ignore[arg-type]
            except RuntimeError as error:
                if "primitive descriptor" not in str(error):
                    raise
                continue  # a kernel that this processor does not have: the trial of settings leaves it out
            off = max(float((a - b).abs().max()) for a, b in zip(exact, computed, strict=True)) / scale
            if not off < tolerance:
                mismatches.append(f"{dtype}, {'channels last' if last else 'contiguous'}: off by {off:.3g}")
    return mismatches


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        sys.stdout.write(f"network {number}\n")
        sys.stdout.flush()  # who dies of the next one has said so
        for line in wrong(number):
            sys.stdout.write(f"wrong {number} {line}\n")
    sys.stdout.write("done\n")
