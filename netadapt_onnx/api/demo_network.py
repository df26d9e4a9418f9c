"""The demo's network: a small residual network with BatchNorm, trained on the demo's images within a minute."""

from __future__ import annotations

import torch
from torch import nn

from netadapt_onnx.common.progress import stage

WIDTHS = (24, 48, 96)
EPOCHS, BATCH, LEARNING_RATE, SHIFT = 8, 64, 0.1, 3


class Shortcut(nn.Conv2d):
    """A 1x1 convolution with a stride; in training the positions that it skips are removed beforehand.

    That gives the same numbers and avoids a kernel that is wrong on some processors (`training/ops/convolution.py`).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        if not self.training:
            return super().forward(x)
        down, right = self.stride
        return nn.functional.conv2d(x[:, :, ::down, ::right], self.weight)


class Block(nn.Module):
    """Two convolutions and a shortcut around them, which couples the channels of a stage."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride > 1:
            self.shortcut = nn.Sequential(Shortcut(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class Network(nn.Module):
    """Stem, one block per stage, global average, classifier of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        first, middle, last = WIDTHS
        self.stem = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(first)
        self.stage1 = Block(first, first, 1)
        self.stage2 = Block(first, middle, 2)
        self.stage3 = Block(middle, last, 2)
        self.classifier = nn.Linear(last, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 1, 32, 32) -> (N, 10)."""
        x = torch.relu(self.bn(self.stem(image)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: torch.Tensor = self.classifier(x.mean((2, 3)))
        return logits


def train_network(images: torch.Tensor, labels: torch.Tensor) -> Network:
    """Train a network; the same input gives the same network.

    Args:
        images: Normalised images, (N, 1, 32, 32).
        labels: Their classes, (N,).
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = Network()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.to(memory_format=torch.channels_last)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    network.train()
    with stage("training a network on digits", steps) as report:
        for step in range(steps):
            if step % (steps // EPOCHS) == 0:
                order = torch.randperm(len(images), generator=generator)
            chosen = order[step % (steps // EPOCHS) * BATCH :][:BATCH]
            down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
            shifted = torch.roll(images[chosen], (down, right), (2, 3))
            loss = nn.functional.cross_entropy(network(shifted), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            report(step + 1, f"loss {loss.item():.3f}")
    network.eval()
    return network
