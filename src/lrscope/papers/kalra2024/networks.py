"""The networks and data of the checks of kalra2024, which the paper's own are far too large for.

Initialisations are the paper's: truncated normal weights, biases of zero, variance 2 / fan_in (the last layer:
1 / fan_in). Data are scikit-learn's digits, each image scaled to mean 0 and variance 1.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope.tasks import Batches, Task
from lrscope.tasks.digits import split
from lrscope.tasks.losses import accuracy, cross_entropy

Start = Literal["sp", "zero", "mup"]
"""Standard parameterisation (starts sharp), the same with a last layer of zeros, or muP (both start flat)."""
NUM_TRAIN = 1437


class FCN(nn.Module):
    """``depth`` linear layers of one width with ReLU between them, and no normalisation.

    In muP the variance is 2 / fan_out, the output of a hidden layer is multiplied by sqrt(fan_out / fan_in) and that
    of the last one by sqrt(1 / fan_in).
    """

    def __init__(self, width: int = 64, depth: int = 10, start: Start = "sp", *, bias: bool = True) -> None:
        super().__init__()
        sizes = [64] + [width] * (depth - 1)
        self.hidden = nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, 10, bias=bias)
        standard(self, self.head)
        self.scales = [1.0] * depth
        if start == "zero":
            nn.init.zeros_(self.head.weight)
        elif start == "mup":
            for layer in self.hidden:
                assert isinstance(layer, nn.Linear)
                layer.weight.data *= (layer.in_features / layer.out_features) ** 0.5
            self.scales = [(b / a) ** 0.5 for a, b in pairwise(sizes)] + [width**-0.5]

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer, scale in zip(self.hidden, self.scales, strict=False):
            x = F.relu(scale * layer(x))
        return self.scales[-1] * self.head(x)


class ResidualMLP(nn.Module):
    """Blocks of Linear, LayerNorm, ReLU, Linear, LayerNorm beside a skip, then ReLU: like the paper's, small."""

    def __init__(self, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width), nn.LayerNorm(width)
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 10)
        standard(self, self.head)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x.flatten(1)))
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(x)


def standard(model: nn.Module, head: nn.Linear) -> None:
    """Standard parameterisation of all linear layers, in place."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            # Cut at two standard deviations, the normal has this share of its own left.
            std = ((1 if module is head else 2) / module.in_features) ** 0.5 / 0.87962566103423978
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@cache
def images() -> tuple[Tensor, Tensor]:
    """All 1,797 images, ``(N, 64)``, and their labels in a fixed random order; the last 360 are for judging."""
    (x, y), (more_x, more_y) = split()
    x, y = torch.cat([x, more_x]).flatten(1), torch.cat([y, more_y])
    x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(y)))
    return x[order], y[order]


def minibatches(net: type[nn.Module] = ResidualMLP, **sizes: int) -> Task:
    """Cross-entropy; batches of 64 of 1,437 images, judged by the other 360."""
    x, y = images()
    held = len(y) - NUM_TRAIN
    return Task(
        build=partial(_build, net, torch.float32, **sizes),
        loss_fn=cross_entropy,
        train=Batches(x[:NUM_TRAIN], y[:NUM_TRAIN], batch_size=64, shuffle=True, drop_last=True),
        evaluate=Batches(x[NUM_TRAIN:], y[NUM_TRAIN:], batch_size=held),
        metrics={"accuracy": accuracy},
        name=f"digits-{net.__name__}",
        steps=400,
    )


def full_batch(
    start: Start = "sp",
    *,
    width: int = 64,
    depth: int = 4,
    bias: bool = True,
    num_train: int = 500,
    dtype: torch.dtype = torch.float32,
) -> Task:
    """The squared error of an :class:`FCN` on the first images as one batch: gradient descent."""
    x, y = (part[:num_train] for part in images())
    build = partial(_build, FCN, dtype, width=width, depth=depth, start=start, bias=bias)
    return Task(build, squared, [(x.to(dtype), y)], name=f"digits-fcn-{start}-{width}")


def _build(net: type[nn.Module], dtype: torch.dtype, seed: int, **sizes: object) -> nn.Module:  # noqa: ARG001 - it is seeded
    return net(**sizes).to(dtype)


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared error, averaged over examples and classes."""
    x, y = batch
    return 0.5 * F.mse_loss(model(x), F.one_hot(y, 10).to(x.dtype))
