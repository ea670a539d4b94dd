"""Data, networks and tasks of the checks of gotmare2018.

The paper trains VGG networks on CIFAR; here they are small and the data scikit-learn's digits, 1,000 images to train
on and 797 to judge by, with one mean and one scale for all pixels. Weights start with He et al.'s variance, biases
with 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial, reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lrscope.landscape import Profile
from lrscope.tasks import Batches, Task
from lrscope.tasks.losses import accuracy, cross_entropy

NUM_TRAIN = 1000


class Data(NamedTuple):
    """Images, ``(N, 64)``, and labels to train on and to judge by."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def digits(wrong: float = 0.0) -> Data:
    """One random split; a share ``wrong`` of the training labels is drawn anew, uniformly."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    x = torch.tensor(found.data, dtype=torch.float32)
    y = torch.tensor(found.target, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(y), generator=generator)
    train, test = order[:NUM_TRAIN], order[NUM_TRAIN:]
    x = (x - x[train].mean()) / x[train].std()
    labels = y[train].clone()
    chosen = torch.randperm(NUM_TRAIN, generator=generator)[: round(wrong * NUM_TRAIN)]
    labels[chosen] = torch.randint(10, (len(chosen),), generator=generator)
    return Data(x[train], labels, x[test], y[test])


def task(
    build: Any, *, batch_size: int, name: str, noise: float = 0.0, wrong: float = 0.0, num_train: int = NUM_TRAIN
) -> Task:
    """Training on the first images, with fresh noise on every batch if any; judged on the other 797."""
    data = digits(wrong)
    x, y = data.x[:num_train], data.y[:num_train]
    augment = partial(blurred, noise=noise) if noise else None
    return Task(
        build,
        cross_entropy,
        Batches(x, y, batch_size=batch_size, shuffle=True, augment=augment),
        Batches(data.test_x, data.test_y, batch_size=len(data.test_y)),
        {"accuracy": accuracy},
        name,
    )


def blurred(batch: tuple[Tensor, Tensor], generator: torch.Generator, *, noise: float) -> tuple[Tensor, Tensor]:
    x, y = batch
    return x + noise * torch.randn(x.shape, generator=generator), y


def initialised(model: nn.Sequential, spread: float = 1.0) -> nn.Sequential:
    """He et al.'s normal weights, times ``spread``, and biases of 0."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            module.weight.data *= spread
            nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
    return model


def mlp(seed: int, *, depth: int = 2, width: int = 64, spread: float = 1.0) -> nn.Module:  # noqa: ARG001 - seeded
    """64-…-10 with ReLU and ``depth`` hidden layers."""
    sizes = [64] + [width] * depth
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return initialised(nn.Sequential(*hidden, nn.Linear(width, 10)), spread)


def cnn(seed: int) -> nn.Module:  # noqa: ARG001 - the generator is seeded
    """Three convolutions of 16, 32, 32 channels, each with batch normalisation, then a stack 128-64-64-10.

    The last two end in a pooling, so the stack sees 32 maps of 2 x 2.
    """
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for i, (a, b) in enumerate(pairwise((1, 16, 32, 32))):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i > 0 else []
    stack = [nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    return initialised(nn.Sequential(*layers, nn.Flatten(), *stack))


def shallow(seed: int) -> nn.Module:  # noqa: ARG001 - the generator is seeded
    """The student: two convolutions of 4 and 8 channels, each pooled, then a stack 32-32-32-10."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for a, b in ((1, 4), (4, 8)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
    stack = [nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)]
    return initialised(nn.Sequential(*layers, nn.Flatten(), *stack))


def with_weights(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    """Names of the modules of a kind, in order."""
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def columns(profiles: Sequence[Profile], *names: str) -> dict[str, Any]:
    """For a figure: the places that all profiles share, and a row for each of them, by column.

    Where a curve was looked at more closely differs between seeds; those places are left out.
    """
    t = reduce(np.intersect1d, [found.t for found in profiles])
    rows = {name: [found[name][np.isin(found.t, t)].tolist() for found in profiles] for name in names}
    return {"t": t.tolist(), **rows}
