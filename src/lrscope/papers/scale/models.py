"""The kinds of networks that the papers train on CIFAR, at any width: VGG and (wide) residual networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["batch", "layer"]


class ResNet(nn.Module):
    """Three stages of pre-activation blocks (He et al. 2016, arXiv 1603.05027), each of 3x3 convolutions.

    Args:
        widths: Channels of the stages; ``(16, 32, 64)`` with 5 blocks is PreResNet-32, ``16 k, 32 k, 64 k`` a wide
            residual network (Zagoruyko & Komodakis 2016, arXiv 1605.07146).
        blocks: Per stage; ``(depth - 2) / 6`` of PreResNet's depth, ``(depth - 4) / 6`` of WRN's.
        norm: ``"batch"``, or ``"layer"``: over the channels of each pixel.
        fixed: Scales and biases of the norms are absent, and the head stays as it starts: all that trains is scale
            invariant, as in Li & Arora 2019.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 5,
        *,
        outputs: int = 10,
        norm: Norm = "batch",
        fixed: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        parts: list[nn.Module] = []
        channels = 16
        for stage, width in enumerate(widths):
            for i in range(blocks):
                stride = 2 if stage and i == 0 else 1
                parts.append(_Block(channels, width, stride, norm, affine=not fixed))
                channels = width
        self.blocks = nn.Sequential(*parts)
        self.norm = _norm(norm, channels, affine=not fixed)
        self.head = nn.Linear(channels, outputs)
        _initialise(self, self.head)
        if fixed:
            self.head.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.blocks(self.stem(x))))
        return self.head(x.mean((2, 3)))


class _Block(nn.Module):
    """Norm, ReLU, convolution, twice, beside a skip; where the shape changes, the skip is a 1x1 convolution."""

    def __init__(self, before: int, width: int, stride: int, norm: Norm, *, affine: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([_norm(norm, before, affine=affine), _norm(norm, width, affine=affine)])
        self.first = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changes = stride > 1 or before != width
        self.skip = nn.Conv2d(before, width, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norms[0](x))
        kept = x if self.skip is None else self.skip(active)
        return kept + self.second(F.relu(self.norms[1](self.first(active))))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of ``(B, C, H, W)``."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


_VGG = {
    11: (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    16: (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0),
}
"""Channels of the convolutions; 0 halves the image."""


class VGG(nn.Module):
    """VGG (Simonyan & Zisserman 2014) for 32x32 images, with BatchNorm and a stack of three linear layers.

    Args:
        depth: 11 or 16.
        width: Channels of the first stage; all others in proportion.
    """

    def __init__(self, depth: int = 11, *, width: int = 64, outputs: int = 10) -> None:
        super().__init__()
        if depth not in _VGG:
            raise ValueError(f"depth: expected one of {', '.join(map(str, _VGG))}, got {depth!r}")
        layers: list[nn.Module] = []
        channels = 3
        for plain in _VGG[depth]:
            wide = plain * width // 64
            if not plain:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            channels = wide
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()
        )
        self.head = nn.Linear(channels, outputs)
        _initialise(self, self.head)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.classifier(self.features(x).flatten(1)))


def _norm(kind: Norm, channels: int, *, affine: bool) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=affine)
    if kind == "layer":
        return ChannelNorm(channels, elementwise_affine=affine)
    raise ValueError(f"norm: expected 'batch' or 'layer', got {kind!r}")


@torch.no_grad()
def _initialise(model: nn.Module, head: nn.Linear) -> None:
    """Variance 2 / fan_in, that of the head 1 / fan_in; biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if module is head else "relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
