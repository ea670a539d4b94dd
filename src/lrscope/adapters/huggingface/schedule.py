"""Run a schedule of ours under a Hugging Face Trainer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from lrscope.adapters.huggingface.extra import require_trainer
from lrscope.adapters.huggingface.loaders import num_updates, undisturbed, updates_per_epoch
from lrscope.adapters.resuming import Guard, TrainerLR
from lrscope.adapters.telling import arguments
from lrscope.errors import ScheduleError
from lrscope.optimizers import ScheduledLR
from lrscope.optimizers.clock import innermost
from lrscope.records import Plan
from lrscope.schedules import Horizon, Schedule, parse
from lrscope.schedules.checks import short, whole

if TYPE_CHECKING:
    from transformers import Trainer


def set_schedule(
    trainer: Trainer,
    schedule: Schedule | str | Plan | Mapping[str, Any],
    *,
    tokens_per_step: float | None = None,
    replan: str | None = None,
    start: int | None = None,
    **options: Any,
) -> None:
    """Let ``trainer`` run ``schedule`` in place of ``lr_scheduler_type``; call it before ``trainer.train()``.

    Takes the place of ``trainer.create_scheduler``, the Trainer's own door for this, so it works with the Trainer's
    optimizer, with ``optimizers=(optimizer, None)``, with ``model_init`` and on any subclass. The schedule multiplies
    the rate of each parameter group: ``learning_rate`` is the peak if the largest factor is 1.

    - **Text** such as ``"warmup(6%) > cosine(to=0)"`` is resolved against the Trainer's number of updates (epochs,
      accumulation, ``max_steps``, processes), when ``train()`` has fixed it. What came out is printed once, by the
      main process, to stderr.
    - **One step per performed update**: micro-batches and updates that a gradient scaler skips do not count.
    - **Resume.** The state is in the Trainer's checkpoints. Before the first resumed update every driven value in the
      checkpoint, and its base, is compared with what schedule and settings give now; a difference is an error with
      both numbers.
    - **Alone.** Someone else who sets ``group["lr"]`` is an error at the first update, a warning later.
    - **Metrics.** A schedule that listens, such as ``Plateau(metric="eval_loss")``, hears each evaluation. One for
      every update, such as ``TwoPhase`` or ``CatapultWarmup``, hears the training loss (its mean over the processes)
      before the update, and measures on its micro-batches.
    - **Logs.** ``learning_rate`` is what the first group really had; ``lr/<group>`` and every other driven key are
      logged beside it. A group is called by its ``name``, else by its number.

    Args:
        trainer: A ``transformers.Trainer`` or a subclass of it.
        schedule: A Schedule, its text or its spec, a :class:`~lrscope.records.Plan` (its rates then stand for
            themselves, whatever ``learning_rate`` says), or a dict of them by group key, as
            :class:`~lrscope.ScheduledLR` takes it.
        tokens_per_step: Tokens per update over all processes; for lengths in tokens.
        replan: What to keep where a checkpoint was saved with another schedule or length: ``"lr"``, ``"fraction"`` or
            ``"shape"``, as in :func:`lrscope.schedules.replan`. ``None``: that is an error.
        start: Step to begin at where a run is resumed whose checkpoint holds no state of this schedule, but that of
            another scheduler or none. It may stay in the script.
        options: Passed on to :class:`~lrscope.ScheduledLR`; schedules in ``groups`` may be text, too.

    Raises:
        ScheduleError: The schedule cannot mean anything for this optimizer, or in a run of this length; the Trainer
            was given a scheduler of its own; or its optimizer steps by itself (DeepSpeed, LOMO, layer-wise ones).
        TypeError: ``trainer`` is something else.
        MissingExtraError: transformers is not installed.

    Example:
        >>> set_schedule(trainer, "warmup(6%) > cosine(to=0)")  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        lrscope: lr of AdamW = 5e-05 × (linear(1, from=0.0, to=1.0) > cosine(9, from=1.0, to=0.0)); 10 updates
    """
    require_trainer(trainer)
    _check(trainer)
    from lrscope.adapters.huggingface.callback import ScheduleCallback

    setup = Setup(trainer, schedule, tokens_per_step, replan, start, options)
    setup.try_out()  # a mistake is told now
    callbacks = trainer.callback_handler.callbacks
    callbacks[:] = [c for c in callbacks if not isinstance(c, ScheduleCallback)]
    callbacks.insert(0, ScheduleCallback(setup))  # before those that report: it adds to what they log
    trainer.create_scheduler = setup.create_scheduler  # pyright: ignore[reportAttributeAccessIssue]


class Setup:
    """What ``trainer.create_scheduler`` needs to know, and what it made."""

    def __init__(
        self,
        trainer: Any,
        schedule: Any,
        tokens_per_step: float | None,
        replan: str | None,
        start: int | None,
        options: dict[str, Any],
    ) -> None:
        self.trainer = trainer
        self.schedule = schedule
        self.tokens_per_step = tokens_per_step
        self.options = {**options, "replan": replan}
        self.start = None if start is None else whole("set_schedule", "start", start)
        self.length: Horizon | None = None
        self.guard: Guard | None = None
        self._per_epoch: tuple[Any, int | None] = (None, None)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> ScheduledLR:
        """In the place of the Trainer's method of this name."""
        trainer = self.trainer
        if trainer.lr_scheduler is None:
            optimizer = innermost(trainer.optimizer if optimizer is None else optimizer)
            scheduler = TrainerLR(optimizer, **self.arguments(num_training_steps))
            self.guard = Guard(
                scheduler,
                "set_schedule",
                updates=lambda: trainer.state.global_step,
                length=lambda: self.length,
                active=lambda: trainer.is_in_train,
                start=self.start,
            )
            trainer.lr_scheduler = scheduler
            trainer._created_lr_scheduler = True  # so that the next train() makes a new one
        return trainer.lr_scheduler

    def try_out(self) -> None:
        """Build the scheduler on a copy of the groups that the Trainer's optimizer has or will have."""
        trainer = self.trainer
        steps = None if trainer.train_dataset is None else num_updates(trainer, self.per_epoch())
        if steps is None:  # then train() itself refuses
            return
        arguments = self.arguments(steps)
        with undisturbed(trainer):
            optimizer = trainer.create_optimizer() if trainer.optimizer is None else trainer.optimizer
        ScheduledLR(_shell(innermost(optimizer)), **arguments)

    def arguments(self, steps: int) -> dict[str, Any]:
        """The arguments of ScheduledLR, with every text read, in a run of ``steps`` updates."""
        self.length = Horizon(steps, self.per_epoch(), self.tokens_per_step)
        return arguments(self.schedule, self.options, partial(parse, horizon=self.length))

    def per_epoch(self) -> int | None:
        """Updates in an epoch; building a loader may read the data set, so it is done once for each setting."""
        trainer = self.trainer
        setting = (id(trainer.train_dataset), trainer._train_batch_size, trainer.args.gradient_accumulation_steps)
        if self._per_epoch[0] != setting:
            self._per_epoch = setting, updates_per_epoch(trainer)
        return self._per_epoch[1]


def _shell(optimizer: Optimizer) -> Optimizer:
    """An optimizer with the same groups and one parameter in each, to try a schedule on."""
    groups = [
        {k: copy.deepcopy(v) for k, v in group.items() if k != "params"} | {"params": [torch.nn.Parameter()]}
        for group in optimizer.param_groups
    ]
    return Optimizer(groups, dict(optimizer.defaults))


def _check(trainer: Any) -> None:
    if trainer.lr_scheduler is not None and not trainer._created_lr_scheduler:
        raise ScheduleError(
            f"trainer: it was given a scheduler ({short(trainer.lr_scheduler)}), and two would overwrite each other; "
            "give Trainer(optimizers=(optimizer, None))"
        )
    optim = str(getattr(trainer.args.optim, "value", trainer.args.optim))
    if trainer.is_deepspeed_enabled or "layerwise" in optim or "lomo" in optim:
        raise ScheduleError(
            f"trainer: under {'DeepSpeed' if trainer.is_deepspeed_enabled else optim} updates are not made by "
            "optimizer.step(), so they cannot be counted; use another optim"
        )
