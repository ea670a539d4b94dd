"""How long a step is against a late one of the same learning rate: momentum, and warmups inside an optimizer."""

from __future__ import annotations

import math
from typing import Any

import torch

from lrscope.optimizers import GIAdam
from lrscope.optimizers.clock import innermost


def built_up(optimizer: Any, step: int) -> float:
    r"""Length of the coming step over that of a late one, were all gradients alike and the learning rate the same.

    A search at the first step would otherwise take a learning rate for harmless that makes ever longer steps. With t
    updates behind it:

    .. math:: (1 - \mu) \sum_{k=0}^{t} \mu^k = 1 - \mu^{t+1}, \qquad \sqrt{1 - \beta_2^{t+1}}, \qquad 1

    for SGD with momentum (:math:`1 - \mu^{t+2}` for Nesterov's; with dampening d the first gradient counts
    :math:`1 / (1 - d)` times), for GI-Adam, and for Adam, whose averages are normalised from the start.

    Args:
        optimizer: The live one; one without state is at its first step, whatever ``step`` says.
        step: Updates behind it.
    """
    optimizer = innermost(optimizer)
    group = optimizer.param_groups[0]
    if isinstance(optimizer, GIAdam):
        done = max((float(entry.get("step", 0)) for entry in optimizer.state.values()), default=0.0)
        return math.sqrt(1 - float(group["betas"][1]) ** (done + 1))
    if isinstance(optimizer, torch.optim.SGD) and group["momentum"] > 0:
        begun = any(entry.get("momentum_buffer") is not None for entry in optimizer.state.values())
        momentum, fresh, done = float(group["momentum"]), 1 - float(group["dampening"]), step if begun else 0
        if group["nesterov"]:
            return 1 - momentum ** (done + 2)
        # torch takes the first gradient whole into the buffer and only the later ones dampened.
        return 1 - momentum**done + momentum**done * (1 - momentum) / fresh if fresh > 0 else 1.0
    return 1.0
