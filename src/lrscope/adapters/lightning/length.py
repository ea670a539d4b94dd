"""How long a Trainer's run is, and schedules in text resolved against it."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from lrscope.errors import ScheduleError
from lrscope.schedules import Horizon, Schedule, parse

_WITHOUT_HORIZON = "constant, inverse_sqrt, piecewise, or a warmup in steps before one of them"


def horizon_of(trainer: Any, tokens_per_step: float | None = None) -> Horizon:
    """The length of a Trainer's run in optimizer updates, for the text of a schedule.

    Accumulation counts, also one that changes between epochs (``GradientAccumulationScheduler``; an epoch then has
    no fixed number of updates). Asking makes Lightning set the training data up.

    Args:
        trainer: A Trainer that fits a module, so from inside ``configure_optimizers`` or a later hook.
        tokens_per_step: Tokens per optimizer update over all devices.

    Raises:
        ScheduleError: The length is not known: no limit is set, the data tell no length, or the module decides
            itself when its optimizers step (manual optimization).
    """
    module = getattr(trainer, "lightning_module", None)
    if module is not None and not module.automatic_optimization:
        raise ScheduleError(
            "horizon: in manual optimization training_step decides how often an optimizer steps, so Lightning does "
            "not know the number of updates; give horizon=Horizon(steps=...)"
        )
    steps, batches = _asked(trainer)
    epochs = trainer.max_epochs
    per_epoch = None
    if math.isfinite(batches):
        counts = [math.ceil(batches / factor) for factor in _accumulation(trainer, epochs)]
        per_epoch = counts[0] if len(set(counts)) == 1 else None
        if per_epoch is None and epochs > 0:  # where Lightning takes the first epoch's factor for all
            steps = sum(counts) if trainer.max_steps == -1 else min(sum(counts), trainer.max_steps)
    if not math.isfinite(steps) or steps < 1:  # -1 is Lightning's word for data without a length and no max_steps
        raise ScheduleError(
            f"horizon: the number of updates is not known: Trainer(max_steps={trainer.max_steps}, "
            f"max_epochs={epochs}) over {batches} batches an epoch; set max_steps, or give "
            f"horizon=Horizon(steps=...), or use a schedule that needs none: {_WITHOUT_HORIZON}"
        )
    return Horizon(int(steps), per_epoch or None, tokens_per_step)


class Reader:
    """Reads the text of a schedule against a Trainer's length, which is asked for at the first text only.

    Attributes:
        length: The length, where it was asked for.
    """

    def __init__(self, trainer: Any, horizon: Horizon | int | None, tokens_per_step: float | None) -> None:
        self.length = Horizon(horizon, None, tokens_per_step) if isinstance(horizon, int) else horizon
        self._trainer, self._tokens_per_step = trainer, tokens_per_step

    def known(self) -> Horizon | None:
        """The length, asked for once more where no text needed it: now the data are set up anyway."""
        if self.length is None:
            with contextlib.suppress(ScheduleError):
                self.length = horizon_of(self._trainer, self._tokens_per_step)
        return self.length

    def __call__(self, text: str) -> Schedule:
        try:
            self.length = self.length or horizon_of(self._trainer, self._tokens_per_step)
        except ScheduleError as unknown:
            try:
                return parse(text)
            except ScheduleError as error:
                raise ScheduleError(f"{unknown}; {error}") from error
        return parse(text, self.length)


def _asked(trainer: Any) -> tuple[float, float]:
    """Updates in all as Lightning estimates them, and batches in an epoch; the data are set up for it.

    Lightning restores a stateful loader only when it sets the data up after the checkpoint was read, and it does so
    once: asking before would silently start the data anew (Lightning issue 20550). So on a resume it is made to set
    them up again.
    """
    loop = trainer.fit_loop
    early = getattr(loop, "_combined_loader", None) is None
    loop.setup_data()  # estimated_stepping_batches leaves that out where max_epochs is -1
    steps = trainer.estimated_stepping_batches
    if early and trainer.ckpt_path is not None:
        loop._combined_loader = None
    return steps, trainer.num_training_batches


def _accumulation(trainer: Any, epochs: int) -> list[int]:
    """Batches per update, epoch by epoch."""
    for callback in trainer.callbacks:
        if hasattr(callback, "get_accumulate_grad_batches"):
            if epochs < 1:
                return list(callback.scheduling.values())
            return [callback.get_accumulate_grad_batches(epoch) for epoch in range(epochs)]
    return [trainer.accumulate_grad_batches]
