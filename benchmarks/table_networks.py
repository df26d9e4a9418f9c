"""The networks that latency tables are tried on, in plain torch: five published classifiers, a U-Net and a ViT.

Architectures: MobileNet (Howard et al. 2017), MobileNetV2 (Sandler et al. 2018), ResNet (He et al. 2016; ResNet-20 is
the one for 32x32 images), EfficientNet-B0 (Tan and Le 2019), U-Net (Ronneberger et al. 2015) and ViT-tiny (Touvron et
al. 2021, DeiT-Ti). Weights are random: they do not change the time that a dense kernel takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

NetworkAndInput = tuple[nn.Module, torch.Tensor]


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([act()] if act else []))


def _head(*body: nn.Module, channels: int, classes: int = 1000) -> nn.Sequential:
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def mobilenet_v1() -> NetworkAndInput:
    """At 128x128."""
    widths = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    parts, now = [_conv(3, 32, stride=2)], 32
    for width, stride in widths:
        parts += [_conv(now, now, stride=stride, groups=now), _conv(now, width, 1)]
        now = width
    return _head(*parts, channels=now), torch.randn(1, 3, 128, 128)


class _Residual(nn.Module):
    """What a branch computes is added to its input, or to a projection of it."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        after: torch.Tensor = self.after(self.branch(x) + self.shortcut(x))
        return after


class _Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same."""
        return x * self.gate(x)


def _inverted(
    now: int, out: int, expand: int, kernel: int, stride: int, act: type[nn.Module], squeeze: bool = False
) -> nn.Module:
    wide = now * expand
    parts: list[nn.Module] = [_conv(now, wide, 1, act=act)] if expand > 1 else []
    parts.append(_conv(wide, wide, kernel, stride, groups=wide, act=act))
    parts += [_Squeeze(wide, max(1, now // 4))] if squeeze else []
    parts.append(_conv(wide, out, 1, act=None))
    branch = nn.Sequential(*parts)
    return _Residual(branch) if stride == 1 and now == out else branch


def mobilenet_v2() -> NetworkAndInput:
    """At 224x224."""
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    parts: list[nn.Module] = [_conv(3, 32, stride=2, act=nn.ReLU6)]
    now = 32
    for expand, width, repeats, stride in plan:
        for i in range(repeats):
            parts.append(_inverted(now, width, expand, 3, stride if i == 0 else 1, nn.ReLU6))
            now = width
    return _head(*parts, _conv(now, 1280, 1, act=nn.ReLU6), channels=1280), torch.randn(1, 3, 224, 224)


def _basic(now: int, out: int, stride: int) -> nn.Module:
    branch = nn.Sequential(_conv(now, out, stride=stride), _conv(out, out, act=None))
    shortcut = _conv(now, out, 1, stride, act=None) if now != out else None
    return _Residual(branch, shortcut, nn.ReLU())


def _resnet(stem: list[nn.Module], widths: list[int], blocks: int, classes: int) -> nn.Sequential:
    parts, now = list(stem), widths[0]
    for k, width in enumerate(widths):
        for i in range(blocks):
            parts.append(_basic(now, width, 2 if k and i == 0 else 1))
            now = width
    return _head(*parts, channels=now, classes=classes)


def resnet20() -> NetworkAndInput:
    """At 32x32."""
    return _resnet([_conv(3, 16)], [16, 32, 64], 3, 10), torch.randn(1, 3, 32, 32)


def resnet18() -> NetworkAndInput:
    """At 224x224."""
    stem = [_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    return _resnet(stem, [64, 128, 256, 512], 2, 1000), torch.randn(1, 3, 224, 224)


def efficientnet_b0() -> NetworkAndInput:
    """At 224x224."""
    plan = [
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]  # fmt: skip
    parts: list[nn.Module] = [_conv(3, 32, stride=2, act=nn.SiLU)]
    now = 32
    for expand, width, repeats, stride, kernel in plan:
        for i in range(repeats):
            parts.append(_inverted(now, width, expand, kernel, stride if i == 0 else 1, nn.SiLU, squeeze=True))
            now = width
    return _head(*parts, _conv(now, 1280, 1, act=nn.SiLU), channels=1280), torch.randn(1, 3, 224, 224)


class _UNet(nn.Module):
    """Encoder and decoder with concatenated shortcuts."""

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        inputs = (3, *widths)
        self.down = nn.ModuleList(nn.Sequential(_conv(a, b), _conv(b, b)) for a, b in zip(inputs, widths, strict=False))
        up = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in up)
        self.up = nn.ModuleList(nn.Sequential(_conv(2 * b, b), _conv(b, b)) for _, b in up)
        self.last = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, classes, H, W); H and W are multiples of 2^(levels - 1)."""
        seen = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else nn.functional.max_pool2d(x, 2))
            seen.append(x)
        for grow, block, other in zip(self.grow, self.up, seen[-2::-1], strict=True):
            x = block(torch.cat([grow(x), other], 1))
        last: torch.Tensor = self.last(x)
        return last


def unet() -> NetworkAndInput:
    """Four levels at 96x96."""
    return _UNet((16, 32, 64, 128), 4), torch.randn(1, 3, 96, 96)


class _Attention(nn.Module):
    """Self-attention of `heads` heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, tokens, C) -> the same."""
        n, t, c = x.shape
        q, k, v = (f(x).reshape(n, t, self.heads, c // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(2, 3) * (c // self.heads) ** -0.5, -1)
        out: torch.Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, t, c))
        return out


class _ViT(nn.Module):
    """A vision transformer with a class token."""

    def __init__(self, width: int, depth: int, heads: int, size: int, patch: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))
        mlp = lambda: nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))  # noqa: E731
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    _Residual(nn.Sequential(nn.LayerNorm(width), _Attention(width, heads))),
                    _Residual(nn.Sequential(nn.LayerNorm(width), mlp())),
                )
                for _ in range(depth)
            )
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        logits: torch.Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def vit_tiny() -> NetworkAndInput:
    """At 224x224 in patches of 16."""
    return _ViT(192, 12, 3, 224, 16, 1000), torch.randn(1, 3, 224, 224)


NETWORKS: Mapping[str, Callable[[], NetworkAndInput]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "efficientnet_b0": efficientnet_b0,
    "unet": unet,
    "vit_tiny": vit_tiny,
}
