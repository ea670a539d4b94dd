"""CIFAR-10 as the papers feed it, from its published binary files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope.tasks import Batches, Task
from lrscope.tasks.cifar import CIFAR10, flip_and_crop, read
from lrscope.tasks.losses import accuracy

Labels = Tensor | tuple[Tensor, Tensor, Tensor]
"""Classes, or of a mixture: the two classes and the share of the first."""


@cache
def _images(path: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images, each scaled to mean 0 and variance 1, and their classes."""
    (x, y), (test_x, test_y) = read(path, CIFAR10)
    return _standard(x), y[:, 0], _standard(test_x), test_y[:, 0]


def _standard(x: Tensor) -> Tensor:
    std, mean = torch.std_mean(x.float(), (1, 2, 3), keepdim=True)
    return (x - mean) / std.clamp(min=1.0)


def cifar(
    path: Path,
    build: Callable[[], nn.Module],
    *,
    name: str,
    batch_size: int,
    augment: bool = True,
    mixup: bool = False,
    squared: bool = False,
) -> Task:
    """A task on all images.

    Args:
        path: The folder ``cifar-10-batches-bin``, or the one above it.
        build: Makes the network; torch is seeded.
        augment: Mirror, and shift by up to 4 pixels with zeros at the border.
        mixup: Mix each image and its class with another of the batch, by a share drawn uniformly.
        squared: Half the squared error to the one-hot classes, a mean over classes, instead of cross-entropy.

    Raises:
        TaskError: The files are missing or broken, or hold fewer images than a batch.
    """
    x, y, test_x, test_y = _images(str(path))
    changes = partial(_augmented, mixup=mixup) if augment else None
    return Task(
        build=lambda seed: build(),  # noqa: ARG005 - torch is seeded already
        loss_fn=_squared if squared else _mixed_cross_entropy,
        train=Batches(x, y, batch_size=batch_size, shuffle=True, drop_last=True, augment=changes),
        evaluate=Batches(test_x, test_y, batch_size=500),
        metrics={"accuracy": accuracy},
        name=name,
    )


def _augmented(batch: tuple[Tensor, Tensor], generator: torch.Generator, *, mixup: bool) -> tuple[Tensor, Labels]:
    x, y = batch
    x = flip_and_crop(x, generator, shift=4, fill=0)
    if not mixup:
        return x, y
    share = torch.rand(len(x), generator=generator)
    other = torch.randperm(len(x), generator=generator)
    weight = share[:, None, None, None]
    return weight * x + (1 - weight) * x[other], (y, y[other], share)


def _mixed_cross_entropy(model: nn.Module, batch: tuple[Tensor, Labels]) -> Tensor:
    x, y = batch
    logits = model(x)
    if isinstance(y, Tensor):
        return F.cross_entropy(logits, y)
    first, second, share = y
    losses = (F.cross_entropy(logits, each, reduction="none") for each in (first, second))
    return (share * next(losses) + (1 - share) * next(losses)).mean()


def _squared(model: nn.Module, batch: tuple[Tensor, Any]) -> Tensor:
    x, y = batch
    logits = model(x)
    return 0.5 * F.mse_loss(logits, F.one_hot(y, logits.shape[1]).to(logits.dtype))
