"""What drives a training: schedules that are checked before any work, and what those that listen are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lrscope.objective import Objective
from lrscope.optimizers import ScheduledLR
from lrscope.optimizers.drives import Drive
from lrscope.records import Cost
from lrscope.schedules import FeedbackSchedule, Schedule
from lrscope.schedules.checks import short
from lrscope.tasks import Task
from lrscope.training.probes import Probe

ScheduleLike = Schedule | FeedbackSchedule | Mapping[str, Drive]


def check_schedule(schedule: ScheduleLike, steps: int) -> None:
    """Refuse what is no schedule of learning rates. What one that listens will do is not known.

    Raises:
        TypeError: Not a Schedule, nor one that listens, nor a dict of them with ``"lr"``.
        ValueError: A learning rate that is negative or not finite.
    """
    lr = schedule.get("lr") if isinstance(schedule, Mapping) else schedule
    if isinstance(lr, FeedbackSchedule):
        return
    if not isinstance(lr, Schedule):
        raise TypeError(
            f"schedule: expected a lrscope Schedule{' for lr' if isinstance(schedule, Mapping) else ''}, got "
            f"{type(lr).__name__}; for a fixed learning rate give lrs.schedules.Constant(lr)"
        )
    values = lr.values(steps)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        at = int(bad.argmax())
        kind = "negative learning rate" if values[at] < 0 else "learning rate"
        raise ValueError(f"schedule: {kind} {values[at]:.3g} at step {at}; it must be finite and 0 or more")


def spec_of(schedule: ScheduleLike) -> Any:
    if not isinstance(schedule, Mapping):
        return schedule.to_spec()
    return {key: drive if isinstance(drive, str) else drive.to_spec() for key, drive in schedule.items()}


def check_hearing(schedule: ScheduleLike, task: Task, evaluate_every: int | None, probes: Sequence[Probe]) -> None:
    """Refuse a schedule that waits for what this training will never report; what probes report is not known."""
    reported = {"loss"} | ({"eval_loss", *task.metrics} if evaluate_every and task.evaluate is not None else set())
    for drive in schedule.values() if isinstance(schedule, Mapping) else [schedule]:
        missing = drive.listens_to - reported if isinstance(drive, FeedbackSchedule) and not probes else ()
        for name in missing:
            how = "; give evaluate_every=" if evaluate_every is None and task.evaluate is not None else ""
            raise ValueError(
                f"schedule: {type(drive).__name__} listens to {short(name)}, which is never reported here, only "
                f"{', '.join(sorted(reported))}{how}"
            )


def tell(
    scheduler: ScheduledLR, seen: Mapping[str, float | None], objective: Callable[[], Objective] | None = None
) -> Cost:
    """Report to the schedules that listen what they want to hear, and return what they measured on ``objective``."""
    heard: dict[str, Any] = {k: v for k, v in seen.items() if v is not None and k in scheduler.listens_to}
    if not heard:
        return Cost()
    made: list[Objective] = []

    def make() -> Objective:
        assert objective is not None
        made.append(objective())
        return made[-1]

    scheduler.observe(measure_on=None if objective is None else make, **heard)
    return sum((o.spent for o in made), Cost())
