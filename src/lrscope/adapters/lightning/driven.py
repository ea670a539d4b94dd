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


class Driven:
    """One optimizer and its scheduler: what happened to them, and whether they still agree."""

    def __init__(self, scheduler: ScheduledLR, *, steps: bool) -> None:
        self.scheduler = scheduler
        self.optimizer: Optimizer = scheduler.optimizer
        self.steps = steps
        self.attempted = self.performed = 0
        self._agreed = self._told = False
        # After ScheduledLR's own hook, which counts the update. So the schedule is right at every moment at which a
        # checkpoint can be written, whoever steps the optimizer.
        self._handle = self.optimizer.register_step_post_hook(self._after_update)

    def close(self) -> None:
        self._handle.remove()

    @property
    def skipped(self) -> int:
        return self.attempted - self.performed

    def _after_update(self, *_: Any) -> None:
        self.performed += 1
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
        self._agreed = False

    def state(self) -> dict[str, Any]:
        rates = [float(lr) for lr in self.scheduler.get_last_lr()]
        return {"scheduler": self.scheduler.state_dict(), "lr": rates, "skipped": self.skipped}

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; refuse to go on at other learning rates than it was written with."""
        if self.steps:
            self.scheduler.load_state_dict(saved["scheduler"])
        groups, rates = self.optimizer.param_groups, self.scheduler.get_last_lr()
        for i, (group, now, was) in enumerate(zip(groups, rates, saved["lr"], strict=False)):
            if float(now) != was:
                raise ScheduleError(
                    f"resume: group {name_of(group, i)} had learning rate {was!r} at update "
                    f"{self.scheduler.last_epoch} when the checkpoint was written, and would go on at "
                    f"{float(now)!r}; its base rate is {group.get('initial_lr')!r}: put back what changed it"
                )
        self.performed, self.attempted = 0, saved["skipped"]

    def values(self, suffix: str) -> dict[str, float]:
        """What the next update uses, by the names it is logged under."""
        row: dict[str, float] = {}
        for i, group in enumerate(self.optimizer.param_groups):
            for key in {"lr": None} | dict.fromkeys(self.scheduler.schedules):
                value = group.get(key)
                if isinstance(value, tuple | list):
                    row |= {f"{key}{suffix}/{name_of(group, i)}/{j}": float(v) for j, v in enumerate(value)}
                elif value is not None:
                    row[f"{key}{suffix}/{name_of(group, i)}"] = float(value)
        return row


def name_of(group: Mapping[str, Any], index: int) -> str:
    return str(group.get("name", index))
