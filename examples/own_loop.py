"""Prune a network and train the rest in a loop of your own: the ONNX file itself, and your class at the new widths.

python examples/own_loop.py          # about 10 seconds; everything goes to ./own_loop/
"""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import netadapt_onnx


class Digits(nn.Module):
    """Two convolutions with BatchNorm and a classifier, at any widths."""

    def __init__(self, first: int = 32, second: int = 48) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.classifier = nn.Linear(second, 10)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, 8, 8) -> (N, 10)."""
        x = torch.relu(self.bn1(self.conv1(image)))
        x = torch.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def train(module: nn.Module, images: Tensor, labels: Tensor, lr: float, epochs: int) -> None:
    """Your loop, or Lightning's, or any other."""
    optimizer = torch.optim.SGD(module.parameters(), lr, momentum=0.9)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images[rows]), labels[rows]).backward()
            optimizer.step()


def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in evaluation mode."""
    with torch.no_grad():
        return float((module.eval()(images).argmax(1) == labels).float().mean())


def main(folder: Path = Path("own_loop")) -> None:
    """Everything, step by step."""
    folder.mkdir(exist_ok=True)
    x, y = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(x.reshape(-1, 1, 8, 8) / 16).float(), torch.from_numpy(y)
    seen, unseen = slice(0, 1200), slice(1200, None)
    torch.manual_seed(0)
    network = Digits()
    train(network, images[seen], labels[seen], 0.05, epochs=12)

    netadapt_onnx.export_module(network, {"image": images[:1]}, folder / "model.onnx", overwrite=True)
    netadapt_onnx.prune(folder / "model.onnx", folder / "small.onnx", ratio=0.5, overwrite=True)
    small = netadapt_onnx.to_torch(folder / "small.onnx")
    scores = [accuracy(network, images[unseen], labels[unseen]), accuracy(small, images[unseen], labels[unseen])]
    train(small, images[seen], labels[seen], 0.05, epochs=8)
    scores.append(accuracy(small, images[unseen], labels[unseen]))
    netadapt_onnx.from_torch(small, folder / "tuned.onnx", overwrite=True)
    print("top1: {:.1%}, with half of the channels {:.1%}, trained {:.1%}".format(*scores))

    # The same cut of the network's own class, to be trained and exported as you always do.
    state = netadapt_onnx.slice_state_dict(folder / "small.plan.toml", network.state_dict())
    narrow = Digits(len(state["conv1.weight"]), len(state["conv2.weight"]))
    narrow.load_state_dict(state)
    print(f"the class at {len(state['conv1.weight'])} and {len(state['conv2.weight'])} channels: ", end="")
    print(f"{accuracy(narrow, images[unseen], labels[unseen]):.1%} before its training")


if __name__ == "__main__":
    main()
