"""What ``configure_optimizers`` returns, and the line that says what will run."""

from __future__ import annotations

import math
import sys
import weakref
from typing import Any

from torch.optim import Optimizer

from lrscope.adapters.lightning.length import each, length_of, resolve
from lrscope.errors import ScheduleError
from lrscope.optimizers import ScheduledLR
from lrscope.schedules import Horizon, Schedule, sparkline


def configure_optimizers(
    module: Any,
    optimizer: Optimizer,
    schedule: Any,
    *,
    horizon: Horizon | int | None = None,
    tokens_per_step: float | None = None,
    name: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What ``LightningModule.configure_optimizers`` returns to train ``optimizer`` by ``schedule``.

    The scheduler is stepped once per optimizer update (``interval="step"``; Lightning's own default is one step per
    epoch), also under gradient accumulation. Lightning saves and restores it. The resolved schedule is printed once,
    by the first process, on stderr.

    In manual optimization Lightning steps no scheduler: call ``self.lr_schedulers().step()`` after the update, or
    leave the schedule to a ``ScheduleCallback``.

    Args:
        module: The LightningModule, attached to its Trainer: ``self`` in ``configure_optimizers``.
        optimizer: Its groups' values are what the schedule multiplies.
        schedule: A Schedule, text such as ``"warmup(6%) > cosine(to=0)"``, or a dict of them by group key. Text is
            resolved against the length of the run, see :func:`horizon_of`.
        horizon: The run's length where Lightning cannot know it; a bare number is updates.
        tokens_per_step: Tokens per optimizer update over all devices; for lengths in tokens.
        name: What LearningRateMonitor logs under; by default its own name, such as ``lr-AdamW``.
        options: Passed on to :class:`~lrscope.optimizers.ScheduledLR`.

    Raises:
        ScheduleError: The text cannot mean anything, or needs a length that is not known.

    Example:
        .. code-block:: python

            def configure_optimizers(self):
                optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
                return lrscope.adapters.lightning.configure_optimizers(self, optimizer, "warmup(6%) > cosine(to=0)")
    """
    trainer = trainer_of(module)
    length = length_of(trainer, schedule, horizon, tokens_per_step)
    resolved = resolve(schedule, length)
    scheduler = ScheduledLR(optimizer, resolved, **options)
    announce(trainer, scheduler, resolved, length)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1, "name": name},
    }


def trainer_of(module: Any) -> Any:
    try:
        return module.trainer
    except (AttributeError, RuntimeError) as error:
        raise ScheduleError(
            f"module: {type(module).__name__} is not attached to a Trainer; call this inside configure_optimizers, "
            "with self"
        ) from error


_announced: weakref.WeakSet[ScheduledLR] = weakref.WeakSet()


def announce(trainer: Any, scheduler: ScheduledLR, schedule: Any, length: Any) -> None:
    """Say once, on the first process, what will run."""
    if scheduler in _announced or not trainer.is_global_zero:
        return
    _announced.add(scheduler)
    run = f"; {length.steps:,} updates" if isinstance(length, Horizon) else ""
    if run and length.steps_per_epoch:
        run += f", {length.steps_per_epoch:,} an epoch"
    for key, part in each(schedule):
        bases = sorted({float(g.get(f"initial_{key}", math.nan)) for g in _numbers(scheduler.optimizer, key)})
        by = " and ".join(f"{b:g}" for b in bases[:3]) or "its base"
        print(f"lrscope: {key} of {type(scheduler.optimizer).__name__} = {by} × {_text(part)}{run}", file=sys.stderr)
        if isinstance(part, Schedule):
            count = part.num_steps or (length.steps if isinstance(length, Horizon) else 1000)
            print(f"lrscope: {sparkline(part.values(max(count, 1)))}", file=sys.stderr)


def _numbers(optimizer: Optimizer, key: str) -> list[dict[str, Any]]:
    return [g for g in optimizer.param_groups if isinstance(g.get(f"initial_{key}"), int | float)]


def _text(schedule: Any) -> str:
    try:
        return f"({schedule.to_text()})"
    except (AttributeError, ScheduleError):  # a shape of the user's own
        return repr(schedule)
