"""Fingerprints: what measuring code must leave as it found it."""

from __future__ import annotations

import hashlib
import pickle
import random
from typing import Any

import numpy as np
import torch
from torch import nn


def digest(value: Any) -> str:
    """A hash of tensors, containers and plain values, by content."""
    h = hashlib.sha256()

    def feed(x: Any) -> None:
        if isinstance(x, torch.Tensor):
            h.update(str((x.dtype, tuple(x.shape))).encode())
            h.update(x.detach().cpu().contiguous().view(-1).numpy().tobytes())
        elif isinstance(x, dict):
            for key in sorted(x, key=str):
                h.update(str(key).encode())
                feed(x[key])
        elif isinstance(x, (list, tuple)):
            for item in x:
                feed(item)
        else:
            h.update(pickle.dumps(x))

    feed(value)
    return h.hexdigest()


def model_state(model: nn.Module) -> str:
    """Parameters, buffers, gradients and the mode of every module."""
    grads = {n: None if p.grad is None else p.grad for n, p in model.named_parameters()}
    return digest(
        [dict(model.named_parameters()), dict(model.named_buffers()), grads, [m.training for m in model.modules()]]
    )


def random_states() -> str:
    return digest([torch.get_rng_state(), list(random.getstate()[1]), np.random.get_state()[1].tolist()])


def everything(
    model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None, loader: Any = None
) -> str:
    parts: list[Any] = [random_states()]
    if model is not None:
        parts.append(model_state(model))
    if optimizer is not None:
        parts.append(digest(optimizer.state_dict()))
    for owner in (loader, getattr(loader, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            parts.append(digest(generator.get_state()))
    return digest(parts)
