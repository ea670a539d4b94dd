"""Noise on the learning rate of every single weight, under any optimizer: LEAP."""

from __future__ import annotations

import math
import weakref
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from lrscope.optimizers.clock import innermost

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)

_perturbed: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def leap(optimizer: AnyOptimizer, sigma: float = 0.1, *, seed: int = 0) -> AnyOptimizer:
    r"""Perturb the learning rate of each weight, at each update, by independent normal noise; returns ``optimizer``.

    .. math:: \eta_{t,i} = \eta_t\,(1 + \sigma\,\xi_{t,i}), \qquad \xi_{t,i} \sim N(0, 1)

    The update that the optimizer makes is multiplied entry by entry after the fact, so it may be any
    ``torch.optim.Optimizer``, also a foreach or fused one, and momentum and second moments stay those of the
    gradients. Decoupled weight decay, being a multiple of the learning rate, is perturbed with it.

    Everything lives in the parameter groups and is stored with them by ``optimizer.state_dict()``, so a run that is
    resumed draws the same noise: ``leap_sigma``, which a group may have of its own, and which
    :class:`~lrscope.ScheduledLR` can drive, ``{"lr": s, "leap_sigma": cooled}``; ``leap_seed``; and ``leap_step``,
    the updates so far. The noise of an update depends on these and on the shapes of the weights alone: no generator
    of the program is touched, and the processes of a data-parallel run stay equal.

    Cost: a copy of the weights, and one normal draw per weight and update.

    Args:
        optimizer: Perturbed in place, inside wrappers such as accelerate's, too.
        sigma: Standard deviation of the noise, relative to the learning rate; with 0 nothing is touched, to the bit.
        seed: Decides the noise.

    Raises:
        TypeError, ValueError: Of an argument; the optimizer is perturbed already.
        RuntimeError: At a step over sharded parameters (FSDP2), whose noise would have to agree between processes.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = leap(torch.optim.SGD([weight], lr=0.1), sigma=0.5, seed=1)
        >>> weight.grad = torch.ones(2)
        >>> optimizer.step()
        >>> bool((weight != -0.1).all()), optimizer.param_groups[0]["leap_step"]
        (True, 1)

    References:
        Liu et al., "LEAP", 2022, arXiv 2208.11873: noise on the learning rate. That each weight and each update has
        its own draw is our reading of the paper, of which only the abstract and summaries were at hand. On
        digits it changes nothing measurable (docs, "Listening").
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: must be a torch Optimizer, got {type(optimizer).__name__}")
    _check_sigma(sigma)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed: expected an integer of 0 or more, got {seed!r}")
    inner = innermost(optimizer)
    if inner in _perturbed:
        raise ValueError(
            "optimizer: its learning rates are perturbed already; to change how much, set group['leap_sigma']"
        )
    _perturbed.add(inner)
    for group in inner.param_groups:
        _settings(group, sigma, seed)
    before: list[tuple[Tensor, Tensor, dict[str, Any]]] = []  # weight, its value before the update, its group

    @torch.no_grad()
    def remember(optimizer: Optimizer, *_: Any) -> None:
        before.clear()
        for group in optimizer.param_groups:
            _settings(group, sigma, seed)  # of a group added later, or of a state saved without
            if _check_sigma(group["leap_sigma"]) == 0:
                continue
            for p in group["params"]:
                if p.grad is None:
                    continue
                if hasattr(p, "placements"):
                    raise RuntimeError(
                        "leap: sharded parameters (FSDP2) are not supported, since the noise of their pieces would "
                        "have to agree between processes; use DistributedDataParallel, or set leap_sigma to 0"
                    )
                before.append((p, p.detach().clone(), group))

    @torch.no_grad()
    def perturb(optimizer: Optimizer, *_: Any) -> None:
        generators: dict[torch.device, torch.Generator] = {}
        for p, old, group in before:
            if p.device not in generators:
                words = np.random.SeedSequence([group["leap_seed"], group["leap_step"]]).generate_state(1)
                generators[p.device] = torch.Generator(p.device).manual_seed(int(words[0]))
            noise = torch.randn(p.shape, generator=generators[p.device], device=p.device, dtype=p.dtype.to_real())
            p.add_(noise.mul_(group["leap_sigma"]) * (p - old))
        before.clear()
        for group in optimizer.param_groups:
            group["leap_step"] += 1

    inner.register_step_pre_hook(remember)
    inner.register_step_post_hook(perturb)
    return optimizer


def _settings(group: dict[str, Any], sigma: float, seed: int) -> None:
    group.setdefault("leap_sigma", float(sigma))
    group.setdefault("leap_seed", seed)
    group.setdefault("leap_step", 0)


def _check_sigma(sigma: Any) -> float:
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"leap_sigma: expected a finite number of 0 or more, got {sigma!r}")
    return sigma
