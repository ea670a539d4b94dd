"""What ``configure_optimizers`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lrscope.adapters.lightning.length import Reader
from lrscope.adapters.resuming import Guard, TrainerLR
from lrscope.adapters.telling import arguments, warn_of_silence
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
    start: int | None = None,
    name: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What ``LightningModule.configure_optimizers`` returns to train ``optimizer`` by ``schedule``.

    The scheduler is stepped once per optimizer update (``interval="step"``; Lightning's own default is one step per
    epoch), also under gradient accumulation. Lightning saves and restores it. Before the first update a resumed run
    is compared with its checkpoint, a difference is an error, and what runs is printed once, by the first process,
    on stderr. Someone else who sets ``group["lr"]`` is an error at the first update, a warning later.

    In manual optimization Lightning steps no scheduler: call ``self.lr_schedulers().step()`` after the update, or
    leave the schedule to a ``ScheduleCallback``.

    Args:
        module: The LightningModule, attached to its Trainer: ``self`` in ``configure_optimizers``.
        optimizer: Its groups' values are what the schedule multiplies.
        schedule: A Schedule, its text such as ``"warmup(6%) > cosine(to=0)"``, its spec, a
            :class:`~lrscope.records.Plan` (its rates then stand for themselves), or a dict of them by group key. Text
            is resolved against the length of the run, see :func:`horizon_of`.
        horizon: The run's length where Lightning cannot know it; a bare number is updates.
        tokens_per_step: Tokens per optimizer update over all devices; for lengths in tokens.
        replan: What to keep where a checkpoint was saved with another schedule or length: ``"lr"``, ``"fraction"`` or
            ``"shape"``, as in :func:`lrscope.schedules.replan`. ``None``: that is an error.
        start: Step to begin at where a run is resumed whose checkpoint holds no state of this schedule, but that of
            another scheduler or none. It may stay in the script.
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
    read = Reader(trainer, horizon, tokens_per_step)
    guard = guarded(trainer, optimizer, schedule, read, replan, start, options, "configure_optimizers")
    if not any(hasattr(callback, "reports_to_schedules") for callback in trainer.callbacks):
        why = "add ScheduleCallback() to the Trainer's callbacks: it reports validations and losses"
        warn_of_silence(guard.scheduler, why, updates=True)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": guard.scheduler, "interval": "step", "frequency": 1, "name": name},
    }


def trainer_of(module: Any) -> Any:
    try:
        return module.trainer
    except (AttributeError, RuntimeError) as error:
        raise ScheduleError(
            f"module: {type(module).__name__} is not attached to a Trainer; call this inside configure_optimizers, "
            "with self"
        ) from error


def updates_before(trainer: Any, scheduler: ScheduledLR) -> int:
    """The Trainer's count of updates, or the schedule's own where the Trainer adds up those of several optimizers."""
    return (len(trainer.optimizers) > 1 and scheduler.last_epoch) or trainer.global_step


def guarded(
    trainer: Any,
    optimizer: Optimizer,
    schedule: Any,
    read: Reader,
    replan: str | None,
    start: int | None,
    options: Mapping[str, Any],
    call: str,
) -> Guard:
    """The scheduler for ``schedule``, with every text in it resolved, under guard."""
    scheduler = TrainerLR(optimizer, replan=replan, **arguments(schedule, options, read))
    before = trainer.global_step  # more than 0 where fit is called once more

    def updates() -> int:
        # In a new run, updates before the first of this optimizer are another's, or a gradient scaler skipped them.
        return updates_before(trainer, scheduler) if before or trainer.ckpt_path is not None else 0

    return Guard(
        scheduler,
        call,
        updates=updates,
        length=read.known,
        active=lambda: trainer.training,
        start=start,
        steps=call != "configure_optimizers",
    )
