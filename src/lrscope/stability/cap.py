"""Keep the learning rate at what curvature allows, without any scheduler noticing."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrscope.curvature import reference_lr
from lrscope.errors import MeasurementError
from lrscope.optimizers.clock import innermost


class Cap:
    """Lowers the rates of an optimizer's groups, all by one factor, so that headroom stays at most ``limit``.

    The rates are lowered inside ``optimizer.step()`` only, by hooks around the update, and put back as they were, the
    same objects, before anything else runs: schedulers that compute the next rate from the present one go on as if
    there were no cap, and no log, check or checkpoint sees another rate than the schedule's (a closure that the
    update calls does). Between readings the last one counts, for the rate that the schedule has by then. Where that
    is below the limit, nothing is touched.

    Args:
        optimizer: The live optimizer; inside a wrapper such as accelerate's the one that makes the updates is taken.
        limit: Headroom that is allowed.

    Attributes:
        stable_lr: Rate at which headroom is 1, by the last reading; ``None`` where nothing limits it.
        num_updates: Updates that were made at a lowered rate.
        lowest: The smallest factor among them.

    Raises:
        ValueError: ``limit`` is not a positive number.
    """

    def __init__(self, optimizer: Optimizer, limit: float) -> None:
        self.optimizer, self.limit = innermost(optimizer), checked_limit(limit)
        self.stable_lr: float | None = None
        self.num_updates = 0
        self.lowest = 1.0
        self._own: list[Any] | None = None  # the groups' rates while they are lowered
        me = weakref.ref(self)

        def before(*_: Any) -> None:
            if (cap := me()) is not None:
                cap._lower()

        def after(*_: Any) -> None:
            if (cap := me()) is not None:
                cap._put_back(performed=True)

        def saving(*_: Any) -> None:
            if (cap := me()) is not None:
                cap._put_back()  # left lowered by an update that raised

        self._handles = [
            self.optimizer.register_step_pre_hook(before),
            self.optimizer.register_step_post_hook(after),
            self.optimizer.register_state_dict_pre_hook(saving),
        ]
        self._last, self._first = self._handles[0].id, self._handles[1].id
        for handle in self._handles:
            weakref.finalize(self, handle.remove)
        self.settle()

    def settle(self) -> None:
        """Be the last hook before the update and the first one after it, whoever has joined meanwhile."""
        self._put_back()
        optimizer: Any = self.optimizer  # whose hooks are ordered dicts, as a module's are
        before, after = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
        if next(reversed(before)) != self._last:
            before.move_to_end(self._last)
        if next(iter(after)) != self._first:
            after.move_to_end(self._first, last=False)

    @property
    def rate(self) -> float:
        """The learning rate that headroom belongs to, as the schedule has it."""
        try:
            return reference_lr(self.optimizer)
        except MeasurementError:  # all groups are at 0
            return 0.0

    @property
    def factor(self) -> float:
        """What the rates are multiplied by in the coming update: 1 unless headroom would be above the limit."""
        if self.stable_lr is None:
            return 1.0
        lr = self.rate
        return min(1.0, self.limit * self.stable_lr / lr) if lr > 0 else 1.0

    def _lower(self) -> None:
        self._put_back()
        factor = self.factor
        if factor == 1:
            return
        groups = self.optimizer.param_groups
        self._own = [g["lr"].clone() if isinstance(g["lr"], Tensor) else g["lr"] for g in groups]
        for group in groups:
            _set(group, group["lr"] * factor)
        self.lowest = min(self.lowest, factor)

    def _put_back(self, *, performed: bool = False) -> None:
        if self._own is None:
            return
        for group, lr in zip(self.optimizer.param_groups, self._own, strict=False):  # a closure may add a group
            _set(group, lr)
        self._own = None
        self.num_updates += performed

    def remove(self) -> None:
        """Take the hooks off; the optimizer is as it was before there was a cap."""
        self._put_back()
        for handle in self._handles:
            handle.remove()

    def state_dict(self) -> dict[str, Any]:
        return {"stable_lr": self.stable_lr, "num_updates": self.num_updates, "lowest": self.lowest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stable_lr, self.num_updates, self.lowest = state["stable_lr"], state["num_updates"], state["lowest"]


def checked_limit(limit: Any) -> float:
    """``limit`` as it is, or a ValueError."""
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < float("inf"):
        raise ValueError(f"cap: expected the headroom that is allowed, such as 1.0, got {limit!r}")
    return float(limit)


@torch.no_grad()
def _set(group: dict[str, Any], lr: Any) -> None:
    """A Tensor rate stays the same Tensor: compiled and captured updates read it in place."""
    if isinstance(group["lr"], Tensor) and isinstance(lr, Tensor):
        group["lr"].copy_(lr)
    else:
        group["lr"] = lr
