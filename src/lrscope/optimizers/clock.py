"""How many updates an optimizer has performed: the clock of a schedule."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from lrscope.errors import LrscopeWarning

_PATIENCE = 20  # a GradScaler that starts at 2**16 has found its scale after that many skipped updates


class UpdateClock:
    """Counts performed updates by a hook on ``optimizer.step``, and calls of the scheduler that had none.

    Gradient accumulation, closures, skipped mixed-precision updates and trainers that step a scheduler once per
    process all come out right, since the optimizer itself is asked.

    Attributes:
        pending: Updates performed and not yet taken.
        idle_calls: Calls of the scheduler that found no new update.
        noting: Whether :meth:`paired` wants to be told of a call that found one.
        groups: The parameter groups that the scheduler knows, and ``count``, how many they were. Before an update
            of others, the scheduler is told.
        written: The learning rate in the first group, the object itself, as the scheduler left it.
    """

    def __init__(self, optimizer: Optimizer, told: Callable[[], None]) -> None:
        """``told`` is a method; its object is not kept alive."""
        self.pending = 0
        self.idle_calls = 0
        self.noting = False
        self.groups: Any = None
        self.count = 0
        self.written: Any = None
        self._performed = False
        self._idle = 0  # calls without an update since the last one with
        self._pattern = (0, 0)  # idle calls per update, and for how many updates in a row
        self._said: set[str] = set()
        optimizer = innermost(optimizer)
        me, tell = weakref.ref(self), weakref.WeakMethod(told)

        def pre_hook(optimizer: Optimizer, *_: Any) -> None:
            clock = me()
            groups = optimizer.param_groups
            if clock is not None and (groups is not clock.groups or len(groups) != clock.count):
                call = tell()
                if call is not None:
                    call()

        def post_hook(optimizer: Optimizer, *_: Any) -> None:
            clock = me()
            if clock is not None and not clock._is_rehearsal(optimizer):
                clock._performed = True
                # Fused optimizers skip inside their kernel, and only this flag of GradScaler's tells.
                found_inf = getattr(optimizer, "found_inf", None)
                if found_inf is None or not bool(found_inf):
                    clock.pending += 1

        def load_hook(*_: Any) -> None:
            clock = me()
            if clock is not None:  # what was done before is not what the state loaded has behind it
                clock.pending = 0

        handles = (
            optimizer.register_step_pre_hook(pre_hook),
            optimizer.register_step_post_hook(post_hook),
            optimizer.register_load_state_dict_post_hook(load_hook),
        )
        for handle in handles:
            weakref.finalize(self, handle.remove)

    def _is_rehearsal(self, optimizer: Optimizer) -> bool:
        """Whether this was torch.distributed.checkpoint, which steps at a rate of 0 to see the optimizer's state."""
        lr = optimizer.param_groups[0].get("lr")
        return lr is not None and lr is not self.written and self.written is not None and float(lr) == 0.0

    def paired(self) -> None:
        """A call that found an update, after calls that found none or while a pattern is watched."""
        idle, times = self._pattern
        self._pattern = (self._idle, times + 1 if idle == self._idle else 1) if self._idle else (0, 0)
        if self._pattern[1] == 3:
            n = self._pattern[0] + 1
            self._say(
                f"this scheduler is stepped {n} times per optimizer update (some trainers step it once per process). "
                "The extra calls change nothing: one update is one step"
            )
        self._idle = 0
        self.noting = self._pattern[1] > 0

    def idle(self, optimizer: Optimizer) -> None:
        """A call that found no update."""
        self._idle += 1
        self.idle_calls += 1
        self.noting = True
        if not self._performed and self._idle == 1 and not _has_bad_gradients(optimizer):
            self._say(
                "scheduler.step() was called, and the optimizer has not performed an update yet: the schedule stays "
                "where it is. To look at a schedule without training use schedule.values(), or "
                "ScheduledLR(..., count='calls')"
            )
        elif self._idle == _PATIENCE:
            self._say(
                f"scheduler.step() was called {_PATIENCE} times in a row without an optimizer update. Either every "
                "update is skipped, or this optimizer's step cannot be seen (a captured graph): then use "
                "ScheduledLR(..., count='calls')"
            )

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, LrscopeWarning, stacklevel=4)


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer that makes the updates, inside wrappers such as accelerate's or SAM's."""
    for name in ("optimizer", "base_optimizer"):
        inner = vars(optimizer).get(name)
        if isinstance(inner, Optimizer):
            return innermost(inner)
    return optimizer


def _has_bad_gradients(optimizer: Optimizer) -> bool:
    """Whether a gradient is not finite: the mark of a skipped update. Asked only when a call found none."""
    grads = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    return any(not bool(torch.isfinite(g).all()) for g in grads)
