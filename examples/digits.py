"""Train a network on handwritten digits, export it, adapt it to half its multiply-accumulates, and gate the result.

python examples/digits.py            # about 15 seconds; everything goes to ./digits/
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import netadapt_onnx


def network() -> nn.Module:
    """Three convolutions with BatchNorm, then a classifier."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10))


def data() -> dict[str, np.ndarray]:
    """1,797 images of 8x8 pixels in the layout of `--data`: (N, 1, 8, 8) float32 and class numbers."""
    x, y = load_digits(return_X_y=True)
    x, y = (x.reshape(-1, 1, 8, 8) / 16).astype(np.float32), y.astype(np.int64)
    parts = {"train": slice(0, 1200), "val": slice(1200, 1500), "test": slice(1500, None)}
    return {f"{kind}_{name}": values[part] for name, part in parts.items() for kind, values in (("x", x), ("y", y))}


def train(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int = 6) -> None:
    """Ordinary training: any network that you have trained yourself takes its place."""
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images[chosen]), labels[chosen]).backward()
            optimizer.step()


def main(folder: Path = Path("digits")) -> None:
    """Everything, step by step."""
    folder.mkdir(exist_ok=True)
    arrays = data()
    np.savez(folder / "data.npz", **arrays)
    model = folder / "model.onnx"
    if not model.exists():
        torch.manual_seed(0)
        module = network()
        train(module, torch.from_numpy(arrays["x_train"]), torch.from_numpy(arrays["y_train"]))
        netadapt_onnx.export_module(module, {"image": torch.zeros(1, 1, 8, 8)}, model)

    result = netadapt_onnx.adapt(model, folder / "data.npz", "macs=0.5x", folder / "run", resume=True, final_epochs=3)
    print(f"{result.before.macs:,} -> {result.after.macs:,} multiply-accumulates")
    accuracy = result.accuracy
    print(f"{accuracy.before:.1%} -> {accuracy.after:.1%} {accuracy.metric} on {accuracy.split}")

    limits = {"macs": result.before.macs / 2, "params": result.before.params}
    verdict = netadapt_onnx.gate(
        result.model, max=limits, min={"accuracy": accuracy.before - 0.05}, data=folder / "data.npz"
    )
    for check in verdict.models[0].checks:
        print(check.message)
    if not (result.met and verdict.ok):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
