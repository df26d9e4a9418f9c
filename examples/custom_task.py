"""A task of one's own: where is the ink? A network gives two numbers per image, judged by a loss and a metric of ours.

    python examples/custom_task.py        # trains the network, exports it to ./custom/ and adapts it

`netadapt-onnx` needs nothing but `task`:

    netadapt-onnx adapt custom/model.onnx --data examples/custom_task.py:task --budget macs=0.6x -o custom/run
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import netadapt_onnx


def task() -> dict[str, Any]:
    """Loaders, the loss that training lowers and the metric that the search tries to keep (higher is better)."""
    x = torch.from_numpy(load_digits().images[:, None] / 16).float()
    y = centres(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[:1200], "val": order[1200:1500], "test": order[1500:]}
    loaders = {
        name: DataLoader(TensorDataset(x[rows], y[rows]), batch_size=64, shuffle=name == "train")
        for name, rows in parts.items()
    }
    return {**loaders, "loss": loss, "metric": r2}


def centres(images: Tensor) -> Tensor:
    """Row and column of the centre of the ink, (N, 1, H, W) -> (N, 2), in pixels."""
    ink = images.sum((1, 2, 3))
    places = torch.arange(images.shape[-1]).float()
    return torch.stack([(images.sum((1, 3)) @ places) / ink, (images.sum((1, 2)) @ places) / ink], 1)


def loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Squared error of the graph output `output`."""
    return nn.functional.mse_loss(outputs["output"], labels)


def r2(outputs: dict[str, np.ndarray], labels: np.ndarray) -> float:
    """The share of the labels' variance that is explained."""
    missed = ((outputs["output"] - labels) ** 2).sum()
    return float(1 - missed / ((labels - labels.mean(0)) ** 2).sum())


def network() -> nn.Module:
    """Two convolutions that keep places, and a layer that reads them."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 2))


def main(folder: Path = Path("custom")) -> None:
    """Train, export, adapt."""
    folder.mkdir(exist_ok=True)
    model = folder / "model.onnx"
    if not model.exists():
        torch.manual_seed(0)
        module = network()
        optimizer = torch.optim.Adam(module.parameters())
        batches, epochs = task()["train"], 10
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * len(batches))
        for _ in range(epochs):
            for images, labels in batches:
                optimizer.zero_grad()
                loss({"output": module(images)}, labels).backward()
                optimizer.step()
                schedule.step()
        netadapt_onnx.export_module(module, {"image": torch.zeros(1, 1, 8, 8)}, model)
    result = netadapt_onnx.adapt(model, f"{__file__}:task", "macs=0.6x", folder / "run", resume=True, final_epochs=5)
    print(f"{result.before.macs:,} -> {result.after.macs:,} multiply-accumulates")
    accuracy = result.accuracy
    print(f"{accuracy.metric} on {accuracy.split}: {accuracy.before:.3f} -> {accuracy.after:.3f}")


if __name__ == "__main__":
    main()
