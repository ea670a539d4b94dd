"""A callback that drives a Trainer's optimizers by schedules, or watches that they are driven as they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lrscope.adapters.lightning.configure import scheduled, tell_once
from lrscope.adapters.lightning.driven import Driven
from lrscope.adapters.lightning.length import horizon_of
from lrscope.adapters.telling import warn_of_length
from lrscope.errors import ScheduleError
from lrscope.optimizers import ScheduledLR
from lrscope.schedules import Horizon


class ScheduleCallback:
    """A Lightning callback that drives the Trainer's optimizer by a schedule, whatever ``configure_optimizers`` says.

    - The schedule moves with every performed update, whoever calls ``optimizer.step()``: accumulation, manual
      optimization and updates that a gradient scaler skips need no thought.
    - Its state travels in Lightning's checkpoints. After a resume the learning rates to go on with are compared with
      those of the checkpoint; at the first update, those of the optimizer with those of the schedule.
    - The resolved schedule is printed once, by the first process, on stderr.
    - Loggers get ``lr/<group>`` (``lr/<optimizer>/<group>`` where there are several), every other key that is
      driven under the same pattern, and ``schedule/skipped_updates``. A group is called by its ``name``, else by its
      number. LearningRateMonitor works beside it, under its own names.
    - A schedule that listens, such as ``Plateau(metric="val_loss")``, hears the metrics after each validation.

    Without a schedule it watches those that ``configure_optimizers`` returned: it prints, checks and logs only.

    Args:
        schedule: A Schedule, its text such as ``"warmup(6%) > cosine(to=0)"``, its spec (``plan.schedule``), or a
            dict of them by group key; with several optimizers, a list of these, one for each, ``None`` to leave one
            alone.
        horizon: The run's length where Lightning cannot know it; a bare number is updates.
        tokens_per_step: Tokens per optimizer update over all devices; for lengths in tokens.
        replan: What to keep where a checkpoint was saved with another schedule or length: ``"lr"``, ``"fraction"`` or
            ``"shape"``, as in :func:`lrscope.schedules.replan`. ``None``: that is an error.
        start: Step to begin at when the checkpoint resumed from holds no state of a schedule.
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
        self._driven: list[Driven] = []
        self._saved: dict[str, Any] | None = None

    # -- Lightning's hooks, in the order in which they come ------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict  # there is no optimizer yet

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        if self._saved is None and trainer.global_step:  # fit was called once more on the same trainer
            self._saved = self.state_dict()
        for driven in self._driven:
            driven.close()
        self._driven = self._watch(trainer) if self.schedule is None else self._drive(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        saved, self._saved = self._saved or {}, None
        states = saved.get("optimizers", [])
        if states and len(states) != len(self._driven):
            raise ScheduleError(
                f"resume: the checkpoint holds schedules of {len(states)} optimizers, this run drives "
                f"{len(self._driven)}; build the same optimizers in the same order"
            )
        for i, driven in enumerate(self._driven):
            if states:
                driven.resume(states[i])
            elif trainer.global_step and driven.scheduler.last_epoch == 0:
                if self.start is None:
                    raise ScheduleError(
                        f"resume: the checkpoint is at update {trainer.global_step} but holds no state of this "
                        "schedule, which would begin again at step 0; say where it is with "
                        f"ScheduleCallback(..., start={trainer.global_step}), or start=0 to begin it here"
                    )
                driven.begin(self.start)
        self._tell_length(trainer)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        # Lightning's own LearningRateMonitor reads the same two private names: the rows then fall together.
        if not trainer.loggers or not trainer._logger_connector.should_update_logs:
            return
        row: dict[str, float] = {}
        for i, driven in enumerate(self._driven):
            for name, value in driven.scheduler.driven_values().items():
                key, group = name.split("/", 1)
                row[f"{key}/{i}/{group}" if len(self._driven) > 1 else name] = value
        row["schedule/skipped_updates"] = float(sum(driven.skipped for driven in self._driven))
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:  # noqa: ARG002
        for driven in self._driven:
            if driven.optimizer is optimizer:
                driven.before_update()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        if not trainer.sanity_checking:
            for driven in self._driven:
                driven.observe(trainer.callback_metrics)

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for ``torch.load(weights_only=True)``."""
        if not self._driven:
            return self._saved or {}
        return {"version": 1, "optimizers": [driven.state() for driven in self._driven]}

    # -- ------------------------------------------------------------------------------------------------------------

    def _drive(self, trainer: Any) -> list[Driven]:
        optimizers = [o for o in trainer.optimizers if o.param_groups]
        several = isinstance(self.schedule, list | tuple)
        schedules: Sequence[Any] = self.schedule if several else [self.schedule]  # pyright: ignore
        if len(schedules) != len(optimizers):
            kinds = ", ".join(type(o).__name__ for o in optimizers) or "none"
            raise ScheduleError(
                f"ScheduleCallback: {len(schedules)} schedule(s) for {len(optimizers)} optimizer(s) ({kinds}); give "
                "a list with one schedule for each optimizer, None to leave one alone"
            )
        driven = []
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
            scheduler = scheduled(
                trainer, optimizer, schedule, self.horizon, self.tokens_per_step, self.replan, self.options
            )
            driven.append(Driven(scheduler, steps=True))
        return driven

    def _watch(self, trainer: Any) -> list[Driven]:
        schedulers = [c.scheduler for c in trainer.lr_scheduler_configs if isinstance(c.scheduler, ScheduledLR)]
        if not schedulers:
            raise ScheduleError(
                "ScheduleCallback: there is no schedule to run and the module returns no ScheduledLR to watch; give "
                "ScheduleCallback a schedule, or return lrscope.adapters.lightning.configure_optimizers(...)"
            )
        for scheduler in schedulers:
            tell_once(scheduler, None)
        return [Driven(scheduler, steps=False) for scheduler in schedulers]

    def _tell_length(self, trainer: Any) -> None:
        """Warn where the run's length and the schedule's do not fit, now that the data are set up anyway."""
        if self.horizon is not None:
            return
        try:
            steps = horizon_of(trainer).steps
        except ScheduleError:
            return
        for driven in self._driven:
            warn_of_length(driven.scheduler, steps)
