"""NeuralScale against its baselines: accuracy after training from scratch at shares of the original's parameters.

    python benchmarks/scaling.py --data CIFAR.npz [--out build/scaling] [--ratios 0.25 0.5 1] [--seeds 3] [--epochs 15]
                                 [--iterations 2] [--warmup-epochs 5] [--batches 10]

A VGG11 of an eighth of the widths. Every method's networks are trained alike. Prints a Markdown table; killed and
started again it goes on. `--data` is any image classification data of 32x32 in the layout of `--data` everywhere.
The paper averages importances over 50 batches, warms up for 10 epochs, descends 15 times and trains for 300 epochs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import netadapt_onnx
from netadapt_onnx.scaling.options import Method
from netadapt_onnx.scaling.result import ScaledModel
from result_files import add_record_option, record
from result_tables import scaling

if TYPE_CHECKING:
    import torch

METHODS: tuple[Method, ...] = ("neuralscale", "uniform", "morphnet")
VGG11 = (64, 128, 256, 256, 512, 512, 512, 512)
POOLED = {0, 1, 3, 5, 7}


def narrow_vgg(divisor: int = 8) -> tuple[torch.nn.Module, torch.Tensor]:
    """VGG11 for 32x32 images with BatchNorm, all widths divided: small enough for two cores."""
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    channels = 3
    for i, wide in enumerate(VGG11):
        width = wide // divisor
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i in POOLED else []
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10)), torch.randn(2, 3, 32, 32)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/scaling"))
    parser.add_argument("--ratios", nargs="+", default=["0.25", "0.5", "1"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--warmup-epochs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=10)
    add_record_option(parser)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = arguments.out / "vgg.onnx"
    if not model.exists():
        netadapt_onnx.export(f"{__file__}:narrow_vgg", model)
    result = netadapt_onnx.scale(
        model,
        arguments.data,
        target=[f"params={ratio}x" for ratio in arguments.ratios],
        out=arguments.out
        / "-".join([str(arguments.iterations), str(arguments.epochs), str(arguments.seeds), *arguments.ratios]),
        method=METHODS,
        iterations=arguments.iterations,
        warmup_epochs=(arguments.warmup_epochs,),
        batches=arguments.batches,
        epochs=arguments.epochs,
        seeds=arguments.seeds,
        resume=True,
        log=lambda text: print(text, file=sys.stderr, flush=True),
    )
    rows = _rows(result.models)
    print(scaling(rows))
    if arguments.record:
        record("scaling", rows)


def _rows(models: Sequence[ScaledModel]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for network in models:
        scores = network.accuracy
        assert scores is not None
        rows.append(
            {
                "target": network.target,
                "method": network.method,
                "params": network.resources.params,
                "mean": scores.mean,
                "std": scores.std,
                "seeds": len(scores.values),
                "widths": list(network.widths.values()),
            }
        )
    return rows


if __name__ == "__main__":
    main()
