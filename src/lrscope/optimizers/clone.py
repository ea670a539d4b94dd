"""Step a copy of a live optimizer, leaving the original and its parameters as they are."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.errors import MeasurementError
from lrscope.params import ParamLayout, groups_of, relative_rates


def clone_optimizer(
    optimizer: torch.optim.Optimizer, replacement: dict[nn.Parameter, nn.Parameter]
) -> torch.optim.Optimizer:
    """An optimizer of the same class, settings and state that moves ``replacement``'s values instead of its keys.

    Groups keep only the parameters that have a replacement. State in shards is gathered, so processes that share a
    model must all call this, and replacements be whole. Attributes that a subclass set itself are copied deeply,
    and parameters in them replaced. Hooks and a scheduler's patch of ``step`` are not copied.
    """
    memo: dict[int, Any] = {id(old): new for old, new in replacement.items()}

    def own(value: Any) -> Any:
        if isinstance(value, Tensor):
            gather = getattr(value, "full_tensor", None)  # that of a DTensor
            return (value.detach() if gather is None else gather().detach()).clone()
        return copy.deepcopy(value, memo)

    clone = object.__new__(type(optimizer))
    # Not copy.copy: Optimizer.__getstate__ knows nothing of what a subclass keeps on itself.
    attributes = {k: v for k, v in vars(optimizer).items() if k not in _ANEW and not k.endswith("_hooks")}
    vars(clone).update(copy.deepcopy(attributes, memo))
    torch.optim.Optimizer.__setstate__(clone, {})  # no hooks
    groups: list[dict[str, Any]] = []
    state: defaultdict[Tensor, Any] = defaultdict(dict)
    for group in optimizer.param_groups:
        kept = [p for p in group["params"] if p in replacement]
        if kept:
            settings = {k: own(v) for k, v in group.items() if k != "params"}
            groups.append(settings | {"params": [replacement[p] for p in kept]})
        for p in kept:
            if p in optimizer.state:
                state[replacement[p]] = {k: own(v) for k, v in optimizer.state[p].items()}
    clone.param_groups, clone.state = groups, state
    return clone


_ANEW = {"state", "param_groups", "step"}


class NextStep:
    """The update a live optimizer would make next from ``theta`` with gradient ``grad``, as a function of the LR.

    Learning rates of the groups keep their ratios (:func:`~lrscope.params.relative_rates`); ``lr`` means that of the
    first group whose rate is not 0. For every rule whose update is proportional to the learning rate (SGD, momentum,
    the Adam family, decoupled decay) one update is made and then scaled; others are stepped anew for each ``lr``.

    Args:
        optimizer: Live optimizer over the parameters of ``model``, with whatever state it has.
        model: The model whose layout theta follows; it is not touched.
        theta, grad: Shape ``(P,)``.

    Attributes:
        updates: Optimizer updates made on copies so far.

    Raises:
        MeasurementError: The optimizer misses a trainable parameter, the ratios of its rates cannot be told, or its
            step fails on a copy, for example because it needs a closure.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, theta: Tensor, grad: Tensor) -> None:
        self._optimizer, self._theta, self._grad = optimizer, theta.detach(), grad.detach()
        self._layout = ParamLayout.of(model)
        self._params = dict(model.named_parameters())
        self.updates = 0
        groups_of(optimizer, model)  # refuses an optimizer of another model
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
        try:
            clone = clone_optimizer(self._optimizer, leaves)
            for group, rate in zip(clone.param_groups, relative_rates(clone.param_groups), strict=True):
                group["lr"] = lr * rate
            clone.step()
        except MeasurementError:
            raise
        except Exception as error:  # an optimizer may be anybody's
            text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            needs = "needs a closure" if "closure" in text else "fails on a copy"
            raise MeasurementError(
                f"optimizer: {type(self._optimizer).__name__}.step {needs} ({text}), so its next step cannot be "
                "tried from one gradient; use a first-order optimizer over dense gradients"
            ) from error
        self.updates += 1
        moved = layout.flatten({n: leaves[self._params[n]].detach() for n in layout.names})
        return moved - self._theta
