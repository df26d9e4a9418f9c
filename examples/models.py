"""Networks of the systems that this one succeeds, for CIFAR-10, as factories for `export`.

    netadapt-onnx export examples/models.py:mobilenet_v1 -o mobilenet_v1.onnx

NetAdapt (Yang et al., ECCV 2018) was shown on a small network (here `hello_world`), AlexNet and MobileNetV1;
NeuralScale (Lee & Lee, CVPR 2020) on VGG11 and MobileNetV2; pruning in general on ResNets and wide ResNets. Each
function returns the module, untrained, and an example input. Their widths are arguments: make yours smaller or larger.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

NetworkAndInput = tuple[nn.Module, Tensor]
IMAGE = (1, 3, 32, 32)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU; the size of the map is divided by `stride`."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def classifier(channels: int) -> nn.Sequential:
    """Global average and a layer of ten classes."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def hello_world(widths: Sequence[int] = (32, 64, 64)) -> NetworkAndInput:
    """Three convolutions and a classifier: the smallest network on which adapting shows something."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *widths), widths, strict=False):
        layers += [conv(inputs, outputs), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, classifier(widths[-1])), torch.zeros(IMAGE)


def alexnet(widths: Sequence[int] = (64, 192, 384, 256, 256), hidden: int = 1024) -> NetworkAndInput:
    """Five convolutions without BatchNorm and three fully connected layers, its strides fit for 32x32 pixels."""
    a, b, c, d, e = widths
    module = nn.Sequential(
        *(nn.Conv2d(3, a, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16 * e, hidden), nn.ReLU()),
        *(nn.Dropout(0.5), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)),
    )
    return module, torch.zeros(IMAGE)


def mobilenet_v1(width: int = 32) -> NetworkAndInput:
    """Depthwise and pointwise convolutions in turn (Howard et al., 2017); two of its strides are left out."""
    shape = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), *((16, 1),) * 6, (32, 2), (32, 1))
    layers, inputs = [conv(3, width)], width
    for times, stride in shape:
        layers += [conv(inputs, inputs, 3, stride, groups=inputs), conv(inputs, times * width, 1)]
        inputs = times * width
    return nn.Sequential(*layers, classifier(inputs)), torch.zeros(IMAGE)


class WideBlock(nn.Module):
    """BatchNorm and ReLU come before each convolution (He et al., 2016), also before that of the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        active = functional.relu(self.bn1(x))
        inner = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return inner + (x if self.shortcut is None else self.shortcut(active))


def wide_resnet_40_2(depth: int = 40, factor: int = 2) -> NetworkAndInput:
    """A wide ResNet (Zagoruyko & Komodakis, BMVC 2016)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    inputs = 16
    for stage, outputs in enumerate((16 * factor, 32 * factor, 64 * factor)):
        for block in range((depth - 4) // 6):
            layers.append(WideBlock(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU(), classifier(inputs)), torch.zeros(IMAGE)


def vgg11(widths: Sequence[int] = (64, 128, 256, 256, 512, 512, 512, 512)) -> NetworkAndInput:
    """Eight convolutions with BatchNorm (Simonyan & Zisserman, 2015) and one classifier, as NeuralScale has it."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
        layers.append(conv(inputs, outputs))
        if number in (0, 1, 3, 5, 7):
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, classifier(widths[-1])), torch.zeros(IMAGE)


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al., CVPR 2016), which couples the channels of a stage."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv(inputs, outputs, 3, stride)
        self.second = conv(outputs, outputs)[:2]
        self.shortcut = conv(inputs, outputs, 1, stride)[:2] if inputs != outputs or stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return functional.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet18(width: int = 64) -> NetworkAndInput:
    """Four stages of two blocks; the first convolution is that for 32x32 pixels."""
    layers: list[nn.Module] = [conv(3, width)]
    inputs = width
    for stage in range(4):
        for block in range(2):
            outputs = width << stage
            layers.append(Block(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    return nn.Sequential(*layers, classifier(inputs)), torch.zeros(IMAGE)


class Inverted(nn.Module):
    """Widen, filter each channel, narrow (Sandler et al., CVPR 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        widen = [conv(inputs, inner, 1)] if expansion > 1 else []
        self.body = nn.Sequential(*widen, conv(inner, inner, 3, stride, groups=inner), conv(inner, outputs, 1)[:2])
        self.kept = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.body(x)
        return x + out if self.kept else out


def mobilenet_v2(last: int = 1280) -> NetworkAndInput:
    """Inverted residuals; the first two strides are left out, as for 32x32 pixels."""
    shape = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    layers: list[nn.Module] = [conv(3, 32)]
    inputs = 32
    for expansion, outputs, repeats, stride in shape:
        for block in range(repeats):
            layers.append(Inverted(inputs, outputs, 1 if block else stride, expansion))
            inputs = outputs
    return nn.Sequential(*layers, conv(inputs, last, 1), classifier(last)), torch.zeros(IMAGE)
