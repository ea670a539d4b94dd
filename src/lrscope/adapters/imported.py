"""What an importer gives back: schedules for an optimizer's groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrscope.errors import ScheduleError
from lrscope.schedules import FeedbackSchedule, Schedule
from lrscope.schedules.checks import did_you_mean, short

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
        bases: The rate of each group that the factors are of; empty if it was read without an optimizer.
    """

    schedule: Drive | Mapping[str, Drive]
    groups: Mapping[str | int, Mapping[str, Drive]] = field(default_factory=dict)
    absolute: tuple[str, ...] = ()
    bases: tuple[float, ...] = ()

    def run(self, optimizer: Optimizer, *, base: str | None = None, **options: Any) -> ScheduledLR:
        """``ScheduledLR(optimizer, schedule, groups=groups, absolute=absolute, **options)``, at the rates read.

        The factors are of the rates in :attr:`bases`, so groups that started from other rates would run another
        curve: another peak, or another floor. That is refused, unless ``base`` says which of the two is meant.

        Args:
            optimizer: One with the groups that the imported scheduler had, or with any number of groups where those
                were all alike.
            base: ``"read"`` sets each group's ``initial_lr`` to the rate in :attr:`bases`: the values are those of
                the imported scheduler. ``"own"`` keeps the groups' own rates: the curve has the same shape and is
                scaled, a ``min_lr`` in it too.
            options: Further arguments of :class:`~lrscope.ScheduledLR`, such as ``last_epoch``.

        Raises:
            ScheduleError: A group has another rate than was read, the number of groups does not fit, or the rates
                are unknown; the groups are then as they were.
        """
        from torch.optim import Optimizer

        from lrscope.optimizers import ScheduledLR

        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: must be a torch Optimizer, got {type(optimizer).__name__}")
        if base not in (None, "read", "own"):
            raise ScheduleError(f"base: unknown {short(base)}; {did_you_mean(base, ('read', 'own'))}")
        if base != "own":
            for group, read in zip(optimizer.param_groups, self._fitting(optimizer, base == "read"), strict=True):
                if base == "read":
                    group["initial_lr"] = read
        return ScheduledLR(optimizer, self.schedule, groups=dict(self.groups), absolute=self.absolute, **options)

    def _fitting(self, optimizer: Optimizer, replace: bool) -> list[float]:
        """The rate that was read for each group of ``optimizer``, which must be its own unless it is replaced."""
        groups, bases = optimizer.param_groups, self.bases
        if not bases:
            raise ScheduleError(
                "run: was read without an optimizer, so the groups' own rates are not in the factors; give the "
                "importer optimizer=, or run(optimizer, base='own') applies the factors to each group as they are"
            )
        if len(groups) != len(bases):
            if self.groups or len(set(bases)) > 1:
                raise ScheduleError(
                    f"run: was read from an optimizer with {len(bases)} groups that differ, and this one has "
                    f"{len(groups)}; give one with the same groups"
                )
            bases = bases[:1] * len(groups)
        for i, (group, read) in enumerate(zip(groups, bases, strict=True)):
            own = float(group.get("initial_lr", group["lr"]))
            if not replace and not math.isclose(own, read, rel_tol=1e-6):  # a float32 Tensor may hold the rate
                raise ScheduleError(
                    f"run: group {i} started from a learning rate of {own:.9g}, and the schedule was read as factors "
                    f"of {read:.9g}; base='read' gives the group that rate, base='own' scales the curve to its own"
                )
        return list(bases)

    def only(self) -> Drive:
        """The schedule, where one schedule of the learning rate says it all.

        Raises:
            ScheduleError: Groups differ, or another key is driven as well.
        """
        if isinstance(self.schedule, Mapping) or self.groups:
            also = f"drives {', '.join(self.schedule)}" if isinstance(self.schedule, Mapping) else "differs by group"
            raise ScheduleError(f"only: what was imported {also}; read .schedule and .groups, or .run(optimizer)")
        return self.schedule


def collected(
    drives: Mapping[str, Sequence[Drive]], bases: Sequence[float], absolute: Sequence[str] = ()
) -> Imported:
    """One :class:`Imported` from a list per key with the schedule of each group, and the rate of each group."""
    common = {key: each[0] for key, each in drives.items()}
    count = len(next(iter(drives.values())))
    own: dict[str | int, Mapping[str, Drive]] = {
        i: {key: each[i] for key, each in drives.items() if each[i] != common[key]} for i in range(1, count)
    }
    schedule = common["lr"] if set(common) == {"lr"} else common
    differing = {i: keys for i, keys in own.items() if keys}
    return Imported(schedule, differing, tuple(absolute), tuple(bases))


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
