"""A callback that drives a Trainer's optimizers by schedules, or watches that they are driven as they should."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from lrscope.adapters.lightning.configure import guarded, updates_before
from lrscope.adapters.lightning.length import Reader
from lrscope.adapters.lightning.sharpness import training_loss
from lrscope.adapters.resuming import Guard, guard_of
from lrscope.adapters.telling import listens, listens_to_updates, warn_of_silence
from lrscope.errors import MeasurementError, ScheduleError
from lrscope.objective import Objective
from lrscope.optimizers import ScheduledLR
from lrscope.schedules import Horizon


class ScheduleCallback:
    """A Lightning callback that drives the Trainer's optimizer by a schedule, whatever ``configure_optimizers`` says.

    - The schedule moves with every performed update, whoever calls ``optimizer.step()``: accumulation, manual
      optimization and updates that a gradient scaler skips need no thought.
    - Its state travels in Lightning's checkpoints. After a resume every driven value, and its base, is compared with
      the checkpoint's; at every update, the learning rates of the optimizer with those of the schedule.
    - What runs is printed once, by the first process, on stderr.
    - Loggers get ``lr/<group>`` (``lr/<optimizer>/<group>`` where there are several), every other key that is
      driven under the same pattern, and ``schedule/skipped_updates``. A group is called by its ``name``, else by its
      number. LearningRateMonitor works beside it, under its own names.
    - A schedule that listens, such as ``Plateau(metric="val_loss")``, hears the metrics after each validation. One
      that is to hear every update, such as ``TwoPhase`` or ``CatapultWarmup``, hears the training loss (its mean over
      the processes) before the update, and measures on its batches, with gradients as they are before clipping.

    Without a schedule it watches those that ``configure_optimizers`` returned: it prints, checks, logs and reports
    metrics only. A Trainer takes one such callback: several optimizers are a list of schedules.

    Args:
        schedule: A Schedule, its text such as ``"warmup(6%) > cosine(to=0)"``, its spec, a
            :class:`~lrscope.records.Plan` (its rates then stand for themselves), or a dict of them by group key; with
            several optimizers, a list of these, one for each, ``None`` to leave one alone.
        horizon: The run's length where Lightning cannot know it; a bare number is updates.
        tokens_per_step: Tokens per optimizer update over all devices; for lengths in tokens.
        replan: What to keep where a checkpoint was saved with another schedule or length: ``"lr"``, ``"fraction"`` or
            ``"shape"``, as in :func:`lrscope.schedules.replan`. ``None``: that is an error.
        start: Step to begin at when the checkpoint resumed from holds no state of a schedule. It may stay in the
            script.
        options: Passed on to :class:`~lrscope.ScheduledLR`; schedules in ``groups`` may be text, too.

    Raises:
        ScheduleError: At the start of ``fit``: the text cannot mean anything or needs a length that is not known;
            the module has a scheduler of its own; there are several optimizers and one schedule; the checkpoint is
            of another schedule or of other learning rates.

    Example:
        .. code-block:: python

            from lightning.pytorch import Trainer
            from lrscope.adapters.lightning import ScheduleCallback

            Trainer(callbacks=[ScheduleCallback("warmup(6%) > cosine(to=0)")], max_steps=10_000)
    """

    def __init__(
        self,
        schedule: Any = None,
        *,
        horizon: Horizon | int | None = None,
        tokens_per_step: float | None = None,
        replan: str | None = None,
        start: int | None = None,
        **options: Any,
    ) -> None:
        self.schedule = schedule
        self.horizon = horizon
        self.tokens_per_step = tokens_per_step
        self.replan = replan
        self.start = start
        self.options = options
        self._guards: list[Guard] = []
        self._attempted: list[int] = []  # updates, for each guard
        self._batches: list[Any] = []  # of the coming update, and the losses that its backward passes began with
        self._losses: list[Any] = []
        self._saved: dict[str, Any] | None = None

    reports_to_schedules = True

    # -- Lightning's hooks, in the order in which they come ------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict  # there is no optimizer yet

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        if self._saved is None and trainer.global_step:  # fit was called once more on the same trainer
            self._saved = self.state_dict()
        self._guards = self._watch(trainer) if self.schedule is None else self._drive(trainer)
        self._attempted = [0] * len(self._guards)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        saved, self._saved = self._saved or {}, None
        states = saved.get("optimizers", [])
        if states and len(states) != len(self._guards):
            raise ScheduleError(
                f"resume: the checkpoint holds schedules of {len(states)} optimizers, this run drives "
                f"{len(self._guards)}; build the same optimizers in the same order"
            )
        for i, guard in enumerate(self._guards):
            if states and self.schedule is not None:  # else Lightning has restored it
                guard.scheduler.load_state_dict(dict(states[i]["scheduler"]))
            guard.begin(updates_before(trainer, guard.scheduler))
            self._attempted[i] = guard.scheduler.last_epoch + (states[i]["skipped"] if states else 0)
            if not trainer.enable_validation:
                warn_of_silence(guard.scheduler, "the Trainer validates nothing; give it validation batches")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        if any(listens_to_updates(guard.scheduler) for guard in self._guards):
            self._batches.append(batch)
        # Lightning's own LearningRateMonitor reads the same two private names: the steps then coincide.
        if not trainer.loggers or not trainer._logger_connector.should_update_logs:
            return
        row: dict[str, float] = {}
        for i, guard in enumerate(self._guards):
            for name, value in guard.scheduler.driven_values().items():
                key, group = name.split("/", 1)
                row[f"{key}/{i}/{group}" if len(self._guards) > 1 else name] = value
        row["schedule/skipped_updates"] = float(sum(self._skipped(i) for i in range(len(self._guards))))
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:  # noqa: ARG002
        if self._batches:
            self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        batches, losses = self._batches, self._losses
        for i, guard in enumerate(self._guards):
            if guard.scheduler.optimizer is optimizer:
                self._attempted[i] += 1
                if losses and listens_to_updates(guard.scheduler):
                    # Lightning has divided each loss by their number.
                    loss = float(trainer.strategy.reduce(sum(losses), reduce_op="mean"))
                    objective = partial(_objective, trainer, pl_module, batches)
                    guard.scheduler.observe(loss=loss, measure_on=objective)
        self._batches, self._losses = [], []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        if not trainer.sanity_checking:
            seen: dict[str, Any] = {name: float(value) for name, value in trainer.callback_metrics.items()}
            for guard in self._guards:
                if listens(guard.scheduler):
                    guard.scheduler.observe(**seen)

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for ``torch.load(weights_only=True)``."""
        if not self._guards:
            return self._saved or {}
        states = [
            {"scheduler": guard.scheduler.state_dict(), "skipped": self._skipped(i)}
            for i, guard in enumerate(self._guards)
        ]
        return {"version": 1, "optimizers": states}

    def _skipped(self, i: int) -> int:
        """Updates that were tried and did not happen."""
        return self._attempted[i] - self._guards[i].scheduler.state_dict()["step"]

    # -- ------------------------------------------------------------------------------------------------------------

    def _drive(self, trainer: Any) -> list[Guard]:
        optimizers = [o for o in trainer.optimizers if o.param_groups]
        several = isinstance(self.schedule, list | tuple)
        schedules: Sequence[Any] = self.schedule if several else [self.schedule]  # pyright: ignore
        if len(schedules) != len(optimizers):
            kinds = ", ".join(type(o).__name__ for o in optimizers) or "none"
            raise ScheduleError(
                f"ScheduleCallback: {len(schedules)} schedule(s) for {len(optimizers)} optimizer(s) ({kinds}); give "
                "a list with one schedule for each optimizer, None to leave one alone"
            )
        guards = []
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            if schedule is None:
                continue
            for config in trainer.lr_scheduler_configs:
                if getattr(config.scheduler, "optimizer", None) is optimizer:
                    raise ScheduleError(
                        f"ScheduleCallback: the module's configure_optimizers already returns a "
                        f"{type(config.scheduler).__name__} for {type(optimizer).__name__}, and two would overwrite "
                        "each other's learning rates; return the optimizer alone, or remove this callback"
                    )
            read = Reader(trainer, self.horizon, self.tokens_per_step)
            guards.append(
                guarded(trainer, optimizer, schedule, read, self.replan, self.start, self.options, "ScheduleCallback")
            )
        return guards

    def _watch(self, trainer: Any) -> list[Guard]:
        schedulers = [c.scheduler for c in trainer.lr_scheduler_configs if isinstance(c.scheduler, ScheduledLR)]
        if not schedulers:
            raise ScheduleError(
                "ScheduleCallback: there is no schedule to run and the module returns no ScheduledLR to watch; give "
                "ScheduleCallback a schedule, or return lrscope.adapters.lightning.configure_optimizers(...)"
            )
        return [self._guard(trainer, scheduler) for scheduler in schedulers]

    def _guard(self, trainer: Any, scheduler: ScheduledLR) -> Guard:
        """That of ``configure_optimizers``, or one for a ScheduledLR that the user built."""
        known = guard_of(scheduler.optimizer)
        if known is not None and known.scheduler is scheduler:
            return known
        return Guard(
            scheduler,
            "ScheduleCallback",
            updates=lambda: trainer.global_step,
            length=Reader(trainer, self.horizon, self.tokens_per_step).known,
            active=lambda: trainer.training,
            start=self.start,
        )


def _objective(trainer: Any, module: Any, batches: list[Any]) -> Objective:
    """The loss of the coming update, its micro-batches together."""

    def loss_fn(_: Any, batches: list[Any]) -> Any:
        total: Any = 0.0
        for batch in batches:
            loss = training_loss(trainer, module, batch)
            if loss is None:
                raise MeasurementError(
                    "ScheduleCallback: training_step returned no loss for a batch that a schedule has to measure on; "
                    "return one for every batch"
                )
            total = total + loss
        return total / len(batches)

    model = trainer.strategy.model
    return Objective(module if model is None else model, loss_fn, [batches], count=len)
