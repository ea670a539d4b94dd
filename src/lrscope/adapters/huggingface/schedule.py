"""Run a schedule of ours under a Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from lrscope.adapters.huggingface.extra import require_trainer
from lrscope.adapters.huggingface.loaders import num_updates, updates_per_epoch
from lrscope.adapters.telling import resolve
from lrscope.errors import ScheduleError
from lrscope.optimizers import ScheduledLR
from lrscope.schedules import Horizon, Schedule, parse
from lrscope.schedules.checks import short

if TYPE_CHECKING:
    from transformers import Trainer


def set_schedule(
    trainer: Trainer,
    schedule: Schedule | str | Mapping[str, Any],
    *,
    tokens_per_step: float | None = None,
    replan: str | None = None,
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
    - **Resume.** The state is in the Trainer's checkpoints. Before the first resumed update the learning rate in the
      checkpoint is compared with the one that schedule and ``learning_rate`` give now; a difference is an error
      with both numbers.
    - **Metrics.** A schedule that listens, such as ``Plateau(metric="eval_loss")``, hears each evaluation.
    - **Logs.** ``learning_rate`` is that of the first group, as ever; ``lr/<group>`` and every other driven key are
      logged beside it. A group is called by its ``name``, else by its number.

    Args:
        trainer: A ``transformers.Trainer`` or a subclass of it.
        schedule: A Schedule, its text or its spec (``plan.schedule``), or a dict of them by group key, as
            :class:`~lrscope.ScheduledLR` takes it.
        tokens_per_step: Tokens per update over all processes; for lengths in tokens.
        replan: What to keep where a checkpoint was saved with another schedule or length: ``"lr"``, ``"fraction"`` or
            ``"shape"``, as in :func:`lrscope.schedules.replan`. ``None``: that is an error.
        options: Passed on to :class:`~lrscope.ScheduledLR`; schedules in ``groups`` may be text, too.

    Raises:
        ScheduleError: The text cannot mean anything in a run of this length; the Trainer was given a scheduler of
            its own; or its optimizer steps by itself (DeepSpeed, LOMO, layer-wise optimizers).
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

    setup = Setup(trainer, schedule, tokens_per_step, replan, options)
    if trainer.train_dataset is not None:
        setup.resolved(num_updates(trainer, updates_per_epoch(trainer)))  # a mistake in the text is told now
    callbacks = trainer.callback_handler.callbacks
    callbacks[:] = [c for c in callbacks if not isinstance(c, ScheduleCallback)]
    callbacks.insert(0, ScheduleCallback(setup))  # before those that report: it adds to what they log
    trainer.create_scheduler = setup.create_scheduler  # pyright: ignore[reportAttributeAccessIssue]


class Setup:
    """What ``trainer.create_scheduler`` needs to know, and what it made."""

    def __init__(
        self, trainer: Any, schedule: Any, tokens_per_step: float | None, replan: str | None, options: dict[str, Any]
    ) -> None:
        self.trainer = trainer
        self.schedule = schedule
        self.tokens_per_step = tokens_per_step
        self.replan = replan
        self.options = options
        self.length: Horizon | None = None
        self.scheduler: CheckpointedLR | None = None
        self.bases: list[float] = []  # as this run's settings have them
        self.stored: list[float] = []  # learning rates in the optimizer's state when it was last loaded
        self._hook: Any = None

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> ScheduledLR:
        """In the place of the Trainer's method of this name."""
        trainer = self.trainer
        if trainer.lr_scheduler is None:
            optimizer = unwrapped(trainer.optimizer if optimizer is None else optimizer)
            scheduler = CheckpointedLR(optimizer, **self.resolved(num_training_steps))
            scheduler.keep = self.replan
            self.scheduler = trainer.lr_scheduler = scheduler
            trainer._created_lr_scheduler = True  # so that the next train() makes a new one
            self.bases = self.stored = [float(lr) for lr in scheduler.base_lrs]
            if self._hook is not None:
                self._hook.remove()
            self._hook = optimizer.register_load_state_dict_post_hook(self._note_stored)
        return trainer.lr_scheduler

    def resolved(self, steps: int | None) -> dict[str, Any]:
        """The arguments of ScheduledLR, with every text read, in a run of ``steps`` updates."""
        arguments = {"schedule": self.schedule, **self.options}
        if steps is not None:
            self.length = Horizon(steps, updates_per_epoch(self.trainer), self.tokens_per_step)
            for name in {"schedule", "groups"} & set(arguments):
                arguments[name] = resolve(arguments[name], partial(parse, horizon=self.length))
        return arguments

    def _note_stored(self, optimizer: Optimizer) -> None:
        self.stored = [float(group["lr"]) for group in optimizer.param_groups]


class CheckpointedLR(ScheduledLR):
    """A ScheduledLR that the Trainer restores: it knows what to keep then, and afterwards whether it was."""

    keep: str | None = None
    restored = False

    def load_state_dict(self, state_dict: dict[str, Any], *, replan: str | None = None) -> None:
        super().load_state_dict(state_dict, replan=self.keep if replan is None else replan)
        self.restored = True


def unwrapped(optimizer: Any) -> Optimizer:
    """The optimizer inside those of accelerate, which have no hooks of their own."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


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
