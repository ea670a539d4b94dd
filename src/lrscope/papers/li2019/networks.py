"""The networks of li2019's checks: scale-invariant layers under SGD, with weight decay or a learning rate for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope.isolation import isolated_rng

Rates = Sequence[float] | np.ndarray
BATCH = 64
HELD_OUT = 360


class NormalisedNet(nn.Module):
    """64 inputs, three linear layers, each followed by a batch normalisation without affine and ReLU; a fixed head.

    The hidden layers are scale invariant, exactly where ``eps`` is 0. With ``affine`` the normalisations have scales
    and biases, and head and those are trained. The head starts as torch's own does, times ``head``.
    """

    def __init__(self, width: int = 24, *, eps: float = 0.0, affine: bool = False, head: float = 1.0) -> None:
        super().__init__()
        sizes = [64, width, width, width]
        self.hidden = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, 10).requires_grad_(affine)
        self.head.weight.data *= head
        self.affine = nn.ParameterList([nn.Parameter(torch.ones(2, width)) for _ in self.hidden] if affine else [])
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.hidden):
            x = layer(x)
            x = (x - x.mean(0)) / (x.var(0, unbiased=False) + self.eps).sqrt()
            if len(self.affine):
                x = x * self.affine[i][0] + 0.1 * (self.affine[i][1] - 1)
            x = F.relu(x)
        return self.head(x)

    @property
    def weights(self) -> list[nn.Parameter]:
        """Those of the hidden layers."""
        return [p for layer in self.hidden for p in layer.parameters()]


def network(seed: int, dtype: torch.dtype = torch.float64, **options: Any) -> NormalisedNet:
    with isolated_rng(seed):
        return NormalisedNet(**options).to(dtype)


@cache
def digits(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """All images, ``(1797, 64)``, and labels in a fixed random order; the first 360 are for judging."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    return torch.tensor(found.data[order] / 16 - 0.3, dtype=dtype), torch.tensor(found.target[order])


def loss_of(net: NormalisedNet, step: int, seed: int) -> Tensor:
    """Cross-entropy of the batch of one step; runs of one seed see the same batches."""
    x, y = digits(net.head.weight.dtype)
    generator = torch.Generator().manual_seed(100_003 * seed + step)
    rows = torch.randint(HELD_OUT, len(y), (BATCH,), generator=generator)
    return F.cross_entropy(net(x[rows]), y[rows])


@dataclass
class Seen:
    """What a run showed: the batch's loss, the angle by which the second layer turned and its norm at each step."""

    loss: list[float] = field(default_factory=list)
    angle: list[float] = field(default_factory=list)
    norm: list[float] = field(default_factory=list)
    train_loss: float = float("nan")
    accuracy: float = float("nan")


def train(net: NormalisedNet, seed: int, lr: Rates, decay: Rates, momentum: float = 0.9) -> Seen:
    """SGD on the hidden layers with a learning rate and a weight decay for each step."""
    optimizer = torch.optim.SGD(net.weights, lr=0.0, momentum=momentum)
    seen, watched = Seen(), net.weights[1]
    for step, (eta, wd) in enumerate(zip(lr, decay, strict=True)):
        optimizer.param_groups[0].update(lr=float(eta), weight_decay=float(wd))
        before = watched.detach().flatten().clone()
        optimizer.zero_grad()
        loss = loss_of(net, step, seed)
        loss.backward()
        optimizer.step()
        after = watched.detach().flatten()
        seen.loss.append(float(loss.detach()))
        # From the difference of directions: arccos of a cosine near 1 would round small angles away.
        turned = after / after.norm() - before / before.norm()
        seen.angle.append(2 * float(torch.asin((turned.norm() / 2).clamp(max=1))))
        seen.norm.append(float(after.norm()))
    x, y = digits(net.head.weight.dtype)
    with torch.no_grad():  # each set as one batch, normalised by its own statistics
        seen.accuracy = 100 * float((net(x[:HELD_OUT]).argmax(1) == y[:HELD_OUT]).double().mean())
        seen.train_loss = float(F.cross_entropy(net(x[HELD_OUT:]), y[HELD_OUT:]))
    return seen


def levels(*phases: tuple[int, float]) -> np.ndarray:
    """A value for each step, ``(steps, value)`` after ``(steps, value)``."""
    return np.concatenate([np.full(steps, value) for steps, value in phases])
