"""Step a copy of a live optimizer, leaving the original and its parameters as they are."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.errors import MeasurementError
from lrscope.params import ParamLayout


def clone_optimizer(
    optimizer: torch.optim.Optimizer, replacement: dict[nn.Parameter, nn.Parameter]
) -> torch.optim.Optimizer:
    """An optimizer of the same class, settings and state that moves ``replacement``'s values instead of its keys.

    Parameters without a replacement are left out. Hooks and a scheduler's patch of ``step`` are not copied.
    """
    clone = copy.copy(optimizer)
    clone.state = defaultdict(dict)
    clone.param_groups = []
    for group in optimizer.param_groups:
        kept = [p for p in group["params"] if p in replacement]
        if kept:
            settings = {k: _own(v) for k, v in group.items() if k != "params"}
            clone.param_groups.append(settings | {"params": [replacement[p] for p in kept]})
        for p in kept:
            if p in optimizer.state:
                clone.state[replacement[p]] = {k: _own(v) for k, v in optimizer.state[p].items()}
    return clone


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.copy(value)


class NextStep:
    """The update a live optimizer would make next from ``theta`` with gradient ``grad``, as a function of the LR.

    Learning rates of the groups keep their ratios; ``lr`` means that of the first group. For every rule whose
    update is proportional to the learning rate (SGD, momentum, the Adam family, decoupled decay) one update is
    made and then scaled; others are stepped anew for each ``lr``.

    Args:
        optimizer: Live optimizer over the parameters of ``model``, with whatever state it has.
        model: The model whose layout theta follows; it is not touched.
        theta, grad: Shape ``(P,)``.

    Attributes:
        updates: Optimizer updates made on copies so far.

    Raises:
        MeasurementError: The optimizer misses a trainable parameter, or its step needs a closure.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, theta: Tensor, grad: Tensor) -> None:
        self._optimizer, self._theta, self._grad = optimizer, theta.detach(), grad.detach()
        self._layout = ParamLayout.of(model)
        self._params = dict(model.named_parameters())
        self.updates = 0
        held = {p for group in optimizer.param_groups for p in group["params"]}
        missing = [name for name in self._layout.names if self._params[name] not in held]
        if missing:
            raise MeasurementError(
                f"optimizer: does not hold the trainable parameter {missing[0]!r} (and {len(missing) - 1} more), so "
                "its next step is not a step of this model; build it from the same model"
            )
        self._direction = self._step(1.0)
        half = self._step(0.5)
        scale = float(self._direction.norm())
        self.linear = float((half - 0.5 * self._direction).norm()) <= 1e-3 * scale

    def __call__(self, lr: float) -> Tensor:
        """Displacement of theta for one step at ``lr``, shape ``(P,)``."""
        return lr * self._direction if self.linear else self._step(lr)

    def _step(self, lr: float) -> Tensor:
        layout = self._layout
        theta, grad = layout.unflatten(self._theta.clone()), layout.unflatten(self._grad)
        leaves = {self._params[n]: nn.Parameter(theta[n].clone()) for n in layout.names}
        for name in layout.names:
            leaves[self._params[name]].grad = grad[name].clone()
        clone = clone_optimizer(self._optimizer, leaves)
        base = float(clone.param_groups[0]["lr"])
        for group in clone.param_groups:
            ratio = float(group["lr"]) / base if base > 0 else 1.0
            group["lr"] = lr * ratio
        step: Callable[[], Any] = clone.step
        try:
            step()
        except TypeError as error:
            raise MeasurementError(
                f"optimizer: {type(clone).__name__}.step needs a closure ({error}), so its next step cannot be tried "
                "from one gradient; use a first-order optimizer"
            ) from error
        self.updates += 1
        moved = layout.flatten({n: leaves[self._params[n]].detach() for n in layout.names})
        return moved - self._theta
