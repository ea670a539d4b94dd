"""What ``configure_optimizers`` returns, and the line that says what will run."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lrscope.adapters.lightning.length import Reader
from lrscope.adapters.telling import resolve, tell
from lrscope.errors import ScheduleError
from lrscope.optimizers import ScheduledLR
from lrscope.schedules import Horizon


def configure_optimizers(
    module: Any,
    optimizer: Optimizer,
    schedule: Any,
    *,
    horizon: Horizon | int | None = None,
    tokens_per_step: float | None = None,
    replan: str | None = None,
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
        schedule: A Schedule, its text such as ``"warmup(6%) > cosine(to=0)"``, its spec (``plan.schedule``), or a
            dict of them by group key. Text is resolved against the length of the run, see :func:`horizon_of`.
        horizon: The run's length where Lightning cannot know it; a bare number is updates.
        tokens_per_step: Tokens per optimizer update over all devices; for lengths in tokens.
        replan: What to keep where a checkpoint was saved with another schedule or length: ``"lr"``, ``"fraction"`` or
            ``"shape"``, as in :func:`lrscope.schedules.replan`. ``None``: that is an error.
        name: What LearningRateMonitor logs under; by default its own name, such as ``lr-AdamW``.
        options: Passed on to :class:`~lrscope.ScheduledLR`; schedules in ``groups`` may be text, too.

    Raises:
        ScheduleError: The text cannot mean anything, or needs a length that is not known.

    Example:
        .. code-block:: python

            def configure_optimizers(self):
                optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
                return lrscope.adapters.lightning.configure_optimizers(self, optimizer, "warmup(6%) > cosine(to=0)")
    """
    trainer = trainer_of(module)
    scheduler = scheduled(trainer, optimizer, schedule, horizon, tokens_per_step, replan, options)
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


def scheduled(
    trainer: Any,
    optimizer: Optimizer,
    schedule: Any,
    horizon: Horizon | int | None,
    tokens_per_step: float | None,
    replan: str | None,
    options: Mapping[str, Any],
) -> ScheduledLR:
    """The scheduler for ``schedule``, with every text in it resolved; what came out is printed."""
    groups = options.get("groups") or {}
    read = Reader(trainer, horizon, tokens_per_step)
    resolved = resolve(schedule, read)
    keys = resolved if isinstance(resolved, Mapping) else {"lr"}
    own = {name: resolve(value, read, keys) for name, value in groups.items()}
    scheduler = ScheduledLR(optimizer, resolved, replan=replan, **{**options, "groups": own})
    tell_once(scheduler, read.length)
    return scheduler


_told: weakref.WeakSet[ScheduledLR] = weakref.WeakSet()


def tell_once(scheduler: ScheduledLR, length: Horizon | None) -> None:
    """Say what will run; a callback meets schedulers that were told of when they were built."""
    if scheduler not in _told:
        _told.add(scheduler)
        tell(scheduler, length)
