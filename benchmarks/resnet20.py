"""The trained ResNet-20 as a PyTorch module, for tools that need one: weights by the file's names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

WIDTHS, BLOCKS = (16, 32, 64), 3
TOLERANCE = 1e-4


class Block(nn.Module):
    """Two convolutions beside a shortcut without weights: every second position, channels padded with zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.pad = (2, (outputs - inputs) // 2) if outputs > inputs else (1, 0)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class ResNet20(nn.Module):
    """For pictures of 32x32 in ten classes (He et al., CVPR 2016, section 4.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        before = (WIDTHS[0], *WIDTHS)
        for number, width in enumerate(WIDTHS):
            blocks = [Block(before[number] if i == 0 else width, width) for i in range(BLOCKS)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(WIDTHS[-1], 10)

    @property
    def blocks(self) -> list[Block]:
        """All of them, in order."""
        return [block for number in range(len(WIDTHS)) for block in getattr(self, f"layer{number + 1}")]

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, 10) logits."""
        x = F.relu(self.bn1(self.conv1(image)))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def resnet20(file: Path) -> ResNet20:
    """The module of a file, in evaluation mode. Raises ValueError if it does not compute what the file does."""
    from netadapt_onnx.graph.runtime import run, session

    proto = onnx.load(file)
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in proto.graph.initializer}
    module = ResNet20().eval()
    names = [name for name in module.state_dict() if not name.endswith("num_batches_tracked")]
    module.load_state_dict({name: stored[name] for name in names}, strict=False)
    image = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    expected = next(iter(run(session(proto), {proto.graph.input[0].name: image}).values()))
    with torch.no_grad():
        outputs = module(torch.from_numpy(image)).numpy()
    if not np.abs(outputs - expected).max() <= TOLERANCE * expected.std():
        raise ValueError(f"{file} is another network than this module")
    return module
