"""Losses and metrics of the built-in tasks, for batches ``(inputs, targets)``; plain functions, so tasks pickle."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy in nats over all targets, shape ``()``: of a batch of images, or of all next tokens."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def accuracy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Share of targets whose most likely class is right, shape ``()``."""
    inputs, targets = batch
    return (model(inputs).argmax(-1) == targets).float().mean()
