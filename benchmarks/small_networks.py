"""Two small networks for CIFAR-10, trained here: five convolutions, and one in the manner of MobileNetV1.

Plain `nn.Sequential`s, so that tools that work on modules follow them, and their files need no code of ours. They are
exported as users do it, by torch's exporter, which folds BatchNorm into the convolutions.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE, CLASSES = (3, 32, 32), 10
BATCH, LR, WEIGHT_DECAY, SHIFT = 128, 0.2, 5e-4, 4


def convnet() -> nn.Sequential:
    """Five 3x3 convolutions with ReLU and three poolings, then a linear layer; 15 million multiply-accumulates."""
    widths, pooled = (32, 64, 64, 128, 128), (0, 1, 3)
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        if number in pooled:
            layers.append(nn.MaxPool2d(2))
    return _classifier(layers, widths[-1])


def mobilenet() -> nn.Sequential:
    """A stem and seven pairs of a depthwise and a 1x1 convolution (Howard et al., 2017), for pictures of 32x32."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    inputs = 32
    for outputs, stride in ((64, 2), (128, 1), (256, 2), (256, 1), (256, 1), (512, 2), (512, 1)):
        layers += [
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
        inputs = outputs
    return _classifier(layers, inputs)


def _classifier(layers: list[nn.Module], features: int) -> nn.Sequential:
    parts = {"features": nn.Sequential(*layers), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict(parts, classifier=nn.Linear(features, CLASSES)))


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {"convnet": convnet, "mobilenet": mobilenet}
# About 10 and 15 minutes of one core with AVX-512: 0.12 and 0.3 CPU seconds a step.
EPOCHS = {"convnet": 12, "mobilenet": 9}


class Pictures:
    """CIFAR-10 as `prepare.py` writes it: bytes in memory, scaled batch by batch."""

    def __init__(self, file: Path) -> None:
        """Read all splits."""
        with np.load(file) as arrays:
            self.stored = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        self._mean = self.stored["mean"].view(1, -1, 1, 1)
        self._std = self.stored["std"].view(1, -1, 1, 1)

    def scaled(self, stored: Tensor) -> Tensor:
        """Bytes as the networks take them."""
        return (stored.float() / 255 - self._mean) / self._std

    def augmented(self, rows: Tensor, random: torch.Generator) -> Tensor:
        """Training pictures, each shifted by up to four pixels and mirrored at random."""
        stored = F.pad(self.stored["x_train"][rows], (SHIFT,) * 4)
        size = IMAGE[1]
        column, row = (torch.randint(0, 2 * SHIFT + 1, (len(rows), 1), generator=random) for _ in range(2))
        along = torch.arange(size)
        columns = torch.where(torch.rand(len(rows), 1, generator=random) < 0.5, along, along.flip(0)) + column
        picked = torch.arange(len(rows))[:, None, None], (along + row)[:, :, None], columns[:, None, :]
        return self.scaled(stored.permute(0, 2, 3, 1)[picked].permute(0, 3, 1, 2))

    def accuracy(self, module: nn.Module, split: str) -> float:
        """The share of a split that a module gets right."""
        images, labels = self.stored[f"x_{split}"], self.stored[f"y_{split}"]
        module.eval()
        with torch.no_grad():
            hits = [
                int(
                    (
                        module(self.scaled(images[start : start + BATCH])).argmax(1) == labels[start : start + BATCH]
                    ).sum()
                )
                for start in range(0, len(images), BATCH)
            ]
        return sum(hits) / len(images)


def train_network(name: str, data: Path, folder: Path, epochs: int, steps: int | None = None) -> Path:
    """Train a network, seeded; goes on from the last complete epoch. Returns its ONNX file, NAME.pt beside it.

    Args:
        name: Of `NETWORKS`.
        data: CIFAR-10 as `prepare.py` writes it.
        folder: Gets the files.
        epochs: Passes over the training pictures, at a rate that rises for a fifth of them and falls to nothing.
        steps: At most so many batches an epoch (for a try).
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, checkpoint = folder / f"{name}.onnx", folder / f"{name}.checkpoint"
    if model.exists():
        return model
    torch.manual_seed(0)
    module, pictures = NETWORKS[name]().to(memory_format=torch.channels_last), Pictures(data)
    count = len(pictures.stored["x_train"])
    batches = min(count // BATCH, steps or count)
    optimizer = torch.optim.SGD(module.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / (epochs * batches)))
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        first = state["epochs"]
        for part, saved in zip((module, optimizer, rate), state["parts"], strict=True):
            part.load_state_dict(saved)
    for epoch in range(first, epochs):
        random = torch.Generator().manual_seed(epoch)
        order = torch.randperm(count, generator=random)
        module.train()
        for step in range(batches):
            rows = order[step * BATCH : (step + 1) * BATCH]
            images = pictures.augmented(rows, random).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(module(images), pictures.stored["y_train"][rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        parts = [part.state_dict() for part in (module, optimizer, rate)]
        torch.save({"epochs": epoch + 1, "parts": parts}, checkpoint)
        print(f"{name}, epoch {epoch + 1} of {epochs}: {pictures.accuracy(module, 'val'):.4f}", flush=True)
    torch.save(module.state_dict(), folder / f"{name}.pt")
    accuracies = {split: pictures.accuracy(module, split) for split in ("val", "test")}
    (folder / f"{name}.json").write_text(json.dumps({"epochs": epochs, **accuracies}))
    export(module, model)
    checkpoint.unlink()
    return model


def export(module: nn.Module, file: Path) -> None:
    """Write a network as users do: torch's exporter, any batch size, BatchNorm folded."""
    image = torch.zeros(1, *IMAGE)
    temporary = file.with_suffix(".part")
    torch.onnx.export(
        module.eval().to(memory_format=torch.contiguous_format),
        (image,),
        str(temporary),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        dynamo=False,
    )
    temporary.replace(file)


def trained(name: str, folder: Path) -> nn.Sequential:
    """The trained module of a network, in evaluation mode."""
    module = NETWORKS[name]()
    module.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    return module.eval()


def _rate(share: float) -> float:
    """The share of the highest rate after this share of the training."""
    return share / 0.2 if share < 0.2 else 0.5 * (1 + math.cos(math.pi * (share - 0.2) / 0.8))
