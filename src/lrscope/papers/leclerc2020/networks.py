"""The networks, data and training of the checks of leclerc2020."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope.isolation import isolated_rng

Kind = Literal["MLP", "MLP-BN"]


@dataclass(frozen=True)
class Data:
    """Images, ``(N, 64)``, and labels to train on and to judge by."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def digits(num_train: int, seed: int, noise: float = 0.0) -> Data:
    """A random split by ``seed``; a share ``noise`` of the training labels is drawn anew, uniformly."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    x = torch.tensor(found.data / 16 - 0.3, dtype=torch.float32)
    y = torch.tensor(found.target, dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    train, test = order[:num_train], order[num_train:]
    labels = y[train].clone()
    wrong = torch.randperm(num_train, generator=generator)[: round(noise * num_train)]
    labels[wrong] = torch.randint(10, (len(wrong),), generator=generator)
    return Data(x[train], labels, x[test], y[test])


def network(kind: Kind, seed: int) -> nn.Module:
    """64-64-64-10 with ReLU; ``"MLP-BN"`` has BatchNorm before it and no biases in the hidden layers."""
    norm = kind == "MLP-BN"
    layers: list[nn.Module] = []
    with isolated_rng(seed):
        for _ in range(2):
            layers += [nn.Linear(64, 64, bias=not norm), *([nn.BatchNorm1d(64)] if norm else []), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(64, 10))


def full_loss(model: nn.Module, data: Data) -> float:
    """Cross-entropy over the training set in train mode; the running statistics are put back."""
    buffers = [b.clone() for b in model.buffers()]
    with torch.no_grad():
        loss = float(F.cross_entropy(model(data.x), data.y))
        for b, before in zip(model.buffers(), buffers, strict=True):
            b.copy_(before)
    return loss


def accuracy(model: nn.Module, data: Data) -> float:
    """Share of the test images that are told right, in eval mode, in percent."""
    model.eval()
    with torch.no_grad():
        right = (model(data.test_x).argmax(1) == data.test_y).double().mean()
    model.train()
    return 100 * float(right)


def train(
    model: nn.Module, data: Data, epochs: int, lr: float, *, momentum: float = 0.0, batch_size: int, seed: int
) -> list[float]:
    """SGD at a constant rate, a fresh momentum buffer; full training losses before and after each epoch.

    A last batch that is not full is left out: eight images alone would upset BatchNorm, and double the shares
    of epochs that rise.
    """
    whole = len(data.y) // batch_size * batch_size
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    generator = torch.Generator().manual_seed(seed)
    losses = [full_loss(model, data)]
    for _ in range(epochs):
        for part in torch.randperm(len(data.y), generator=generator)[:whole].split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(data.x[part]), data.y[part]).backward()
            optimizer.step()
        losses.append(full_loss(model, data))
    return losses


def rises(losses: Sequence[float]) -> float:
    """Share of the epochs after which the loss was higher, by more than 1e-4 of itself."""
    x = np.asarray(losses)
    return float(np.mean(~(x[1:] <= x[:-1] * (1 + 1e-4))))
