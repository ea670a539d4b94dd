"""One optimizer under a schedule: its updates counted, its learning rates compared."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.optimizers import ScheduledLR
from lrscope.optimizers.lanes import name_of
from lrscope.schedules import FeedbackSchedule


class Driven:
    """One optimizer and its scheduler: what happened to them, and whether they still agree."""

    def __init__(self, scheduler: ScheduledLR, *, steps: bool) -> None:
        self.scheduler = scheduler
        self.optimizer: Optimizer = scheduler.optimizer
        self.steps = steps
        self.bases = [float(base) for base in scheduler.base_lrs]  # as this run's settings have them
        self.attempted = 0
        self._first = self._updates()
        self._agreed = self._told = False
        # After ScheduledLR's own hook, which counts the update. So the schedule is right at every moment at which a
        # checkpoint can be written, whoever steps the optimizer.
        self._handle = self.optimizer.register_step_post_hook(self._after_update)

    def close(self) -> None:
        self._handle.remove()

    @property
    def skipped(self) -> int:
        """Updates that were tried and did not happen."""
        return self.attempted - (self._updates() - self._first)

    def _updates(self) -> int:
        return self.scheduler.state_dict()["step"]  # also those that the scheduler has not been told of

    def observe(self, metrics: Mapping[str, Any]) -> None:
        if any(isinstance(drive, FeedbackSchedule) for drives in self._drives() for drive in drives.values()):
            self.scheduler.observe(**{name: float(value) for name, value in metrics.items()})

    def _drives(self) -> list[dict[str, Any]]:
        return [self.scheduler.schedules, *self.scheduler.groups.values()]

    def _after_update(self, *_: Any) -> None:
        if self.steps:
            self.scheduler.step()

    def before_update(self) -> None:
        """Compare what the update will use with what the schedule says: an error at first, later a warning."""
        self.attempted += 1
        wrong = next(self._differences(), None)
        if wrong is None:
            self._agreed = True
            return
        name, actual, expected = wrong
        message = (
            f"learning rate: the schedule says {expected!r} for update {self.scheduler.last_epoch} of group {name}, "
            f"the optimizer has {actual!r}: something else sets it too; look for another callback, a scheduler, or "
            "an assignment to group['lr'] in the module"
        )
        if not self._agreed:
            raise ScheduleError(message)
        if not self._told:
            warnings.warn(message, LrscopeWarning, stacklevel=2)
            self._told = True

    def _differences(self) -> Iterator[tuple[str, float, float]]:
        # Not strict: a group added since the last update joins at the next one.
        for i, (group, expected) in enumerate(
            zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=False)
        ):
            actual = group["lr"]
            if isinstance(actual, Tensor):
                if self._agreed:  # asking a device for a number at every update would be slow
                    continue
                same = math.isclose(float(actual), float(expected), rel_tol=1e-6)
            else:
                same = actual == expected
            if not same:
                yield name_of(group, i), float(actual), float(expected)

    def begin(self, step: int) -> None:
        self.scheduler.step(step)
        self._first = step

    def state(self) -> dict[str, Any]:
        rates = [float(lr) for lr in self.scheduler.get_last_lr()]
        return {"scheduler": self.scheduler.state_dict(), "lr": rates, "skipped": self.skipped}

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`; refuse to go on at other learning rates than it and this run's settings say."""
        if self.steps or self.scheduler.last_epoch == 0:  # else the trainer has restored it
            self.scheduler.load_state_dict(dict(saved["scheduler"]))
        step = self.scheduler.last_epoch
        replanned = saved["scheduler"]["spec"] != self.scheduler.state_dict()["spec"]  # so the rates may change
        groups, rates = self.optimizer.param_groups, self.scheduler.get_last_lr()
        for i, (group, now, was) in enumerate(zip(groups, rates, saved["lr"], strict=False)):
            if float(now) != was and not replanned:
                raise ScheduleError(
                    f"resume: group {name_of(group, i)} had learning rate {was!r} at update {step} when the "
                    f"checkpoint was written, and would go on at {float(now)!r}: its base rate is "
                    f"{group.get('initial_lr')!r} now; put back what changed it"
                )
        for i, (group, base) in enumerate(zip(groups, self.bases, strict=False)):
            stored = float(group.get("initial_lr", base))
            if base != stored:
                raise ScheduleError(
                    f"resume: group {name_of(group, i)} has base rate {stored!r} in the checkpoint of update {step}, "
                    f"this run sets {base!r}, which Lightning has overwritten; put it back, or scale the schedule "
                    "and change the plan on purpose by replan="
                )
        self._first, self.attempted = self._updates(), saved["skipped"]
