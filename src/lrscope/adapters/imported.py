"""What an importer gives back: schedules for an optimizer's groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrscope.errors import ScheduleError
from lrscope.schedules import FeedbackSchedule, Schedule

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from lrscope.optimizers import ScheduledLR

Drive = Schedule | FeedbackSchedule


@dataclass(frozen=True)
class Imported:
    """Another library's scheduler as schedules of ours, in the words of :class:`~lrscope.ScheduledLR`.

    Attributes:
        schedule: Factors on the learning rate that a group started from (its ``initial_lr``), or a dict by group
            key where more than the learning rate is driven.
        groups: Schedules of the groups that differ from the first one, by index and key.
        absolute: Keys whose schedules are the values themselves.
    """

    schedule: Drive | Mapping[str, Drive]
    groups: Mapping[str | int, Mapping[str, Drive]] = field(default_factory=dict)
    absolute: tuple[str, ...] = ()

    def run(self, optimizer: Optimizer, **options: Any) -> ScheduledLR:
        """``ScheduledLR(optimizer, schedule, groups=groups, absolute=absolute, **options)``.

        Args:
            optimizer: One with the groups that the imported scheduler had.
            options: Further arguments of :class:`~lrscope.ScheduledLR`, such as ``last_epoch``.
        """
        from lrscope.optimizers import ScheduledLR

        return ScheduledLR(optimizer, self.schedule, groups=dict(self.groups), absolute=self.absolute, **options)

    def only(self) -> Drive:
        """The schedule, where one schedule of the learning rate says it all.

        Raises:
            ScheduleError: Groups differ, or another key is driven as well.
        """
        if isinstance(self.schedule, Mapping) or self.groups:
            also = f"drives {', '.join(self.schedule)}" if isinstance(self.schedule, Mapping) else "differs by group"
            raise ScheduleError(f"only: what was imported {also}; read .schedule and .groups, or .run(optimizer)")
        return self.schedule


def collected(drives: Mapping[str, Sequence[Drive]], absolute: Sequence[str] = ()) -> Imported:
    """One :class:`Imported` from a list per key with the schedule of each group."""
    common = {key: each[0] for key, each in drives.items()}
    count = len(next(iter(drives.values())))
    own: dict[str | int, Mapping[str, Drive]] = {
        i: {key: each[i] for key, each in drives.items() if each[i] != common[key]} for i in range(1, count)
    }
    schedule = common["lr"] if set(common) == {"lr"} else common
    return Imported(schedule, {i: differing for i, differing in own.items() if differing}, tuple(absolute))


def share(value: Any, base: float, what: str) -> float:
    """A learning rate as a factor on ``base``."""
    value = float(value)
    if value == base:
        return 1.0
    if value == 0:
        return 0.0
    if base == 0:
        raise ScheduleError(f"{what}: {value:g} is no factor of a base learning rate of 0; give the group a rate")
    return value / base
