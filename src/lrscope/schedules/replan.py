"""A change of plan in the middle of a run, with the jump that it means said aloud."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule
from lrscope.schedules.checks import did_you_mean, short, whole
from lrscope.schedules.preview import sparkline

KEEPS = ("lr", "fraction", "shape")


@dataclass(frozen=True)
class Replanned:
    """What :func:`replan` made of a run; printing it shows both curves and the jump.

    Attributes:
        schedule: The one to run from now on: the old one until step ``at``, then the new part.
        at: The step of the change.
        before: The old schedule's value at ``at``.
        after: The new one's value at ``at``.
        old: The schedule until now.
    """

    schedule: Schedule
    at: int
    before: float
    after: float
    old: Schedule

    def __str__(self) -> str:
        jump = "no jump" if np.isclose(self.before, self.after, rtol=1e-9, atol=0.0) else "a jump"
        ratio = f" ({self.after / self.before:.4g} times)" if jump == "a jump" and self.before else ""
        return (
            f"replanned at step {self.at}: factor {self.before:.6g} -> {self.after:.6g}, {jump}{ratio}; "
            f"at most {largest(self.schedule.after(self.at)):.6g} from here on\n"
            f"{both_curves(self.old, self.schedule)}"
        )


def replan(old: Schedule, new: Schedule | int, *, at: int, keep: str) -> Replanned:
    r"""The schedule of a run that changes its plan at step ``at``.

    With ``n_old`` and ``n_new`` the two lengths, the values from step ``at`` on are

    - ``keep="lr"``: :math:`\text{new}(t)\, \text{old}(at) / \text{new}(at)`: the new curve from that step on,
      scaled so that nothing jumps; refused where that would go above both plans, as it does if the new one is
      still in its warmup;
    - ``keep="fraction"``: the share of the run that is done stays what it was: the rest of the new curve, from
      :math:`at \cdot n_{new} / n_{old}` on, is fitted into the steps that remain;
    - ``keep="shape"``: :math:`\text{new}(t)`, as if it had been the plan from the start. This may jump.

    Args:
        old: The schedule until now.
        new: The new one; a whole number is a new length for the old one, which is stretched.
        at: Updates done so far.
        keep: What stays: ``"lr"``, ``"fraction"`` or ``"shape"``.

    Raises:
        ScheduleError: Nothing can be kept: one of the two rates at this step is 0, a length is not known, or the
            scaled curve would go above both plans.

    Example:
        >>> from lrscope.schedules import Linear
        >>> changed = replan(Linear(1.0, 0.0, 4), 8, at=2, keep="fraction")
        >>> changed.schedule.values().round(3)
        array([1.   , 0.75 , 0.5  , 0.417, 0.333, 0.25 , 0.167, 0.083])
    """
    at = whole("replan", "at", at)
    if keep not in KEEPS:
        raise ScheduleError(f"replan: unknown keep {short(keep)}; {did_you_mean(keep, KEEPS)}")
    if not isinstance(new, Schedule):
        new = old.stretch(whole("replan", "new", new, at_least=1))
    before = old(at)
    if keep == "fraction":
        if old.num_steps is None or new.num_steps is None or old.num_steps < 1:
            raise ScheduleError('replan: keep="fraction" needs two schedules that end; use keep="lr" or "shape"')
        if at >= min(old.num_steps, new.num_steps):
            ends = min(old.num_steps, new.num_steps)
            raise ScheduleError(f'replan: keep="fraction" at step {at}, but a schedule ends at step {ends}')
        # Stretched by n_old first, the steps done are a whole number of steps again.
        rest = new.stretch(old.num_steps).after(at).stretch(new.num_steps - at)
    else:
        rest = new.after(at)
        if keep == "lr" and rest(0) != before:
            if rest(0) == 0 or before == 0:
                which = "new" if rest(0) == 0 else "old"
                raise ScheduleError(
                    f'replan: keep="lr" scales the new rate to the old one, and the {which} one is 0 at step {at}; '
                    'use keep="fraction" or "shape", or cool down from here with .cool_down(at, steps)'
                )
            rest = (before / rest(0)) * rest
            high, most = largest(rest), max(largest(old), largest(new))
            if high > most * (1 + 1e-9):
                raise ScheduleError(
                    f'replan: keep="lr" at step {at} would scale the new schedule by {before / new(at):.4g}, up to a '
                    f"factor of {high:.4g}, where neither plan goes above {most:.4g}; is the new one still in its "
                    'warmup there? use keep="fraction" or "shape"'
                )
    schedule = old.first(at).then(rest) if at else rest
    return Replanned(schedule, at, before, schedule(at), old)


def largest(schedule: Schedule) -> float:
    """The largest size of a value; of some thousand steps of a long schedule, and the beginning of an endless one."""
    end = 10_000 if schedule.num_steps is None else schedule.num_steps
    return float(np.abs(schedule._at(np.unique(np.linspace(0, end, min(end, 5000) + 1).round()))).max())


def both_curves(old: Schedule, new: Schedule) -> str:
    """Two lines of text, the curves drawn over the same steps and to the same height."""
    lengths = [s.num_steps for s in (old, new)]
    count = max([n for n in lengths if n is not None], default=1000) + 1
    # A picture 60 characters wide needs no more than some thousand of the steps.
    steps = np.unique(np.linspace(0, count - 1, min(count, 1200)).round())
    values = [s._at(steps if n is None else np.minimum(steps, n)) for s, n in zip((old, new), lengths, strict=True)]
    high = max(float(v.max()) for v in values) or 1.0
    lines = []
    for name, v, n in zip(("old", "new"), values, lengths, strict=True):
        curve = sparkline(np.append(v, high), 61)[:-1]  # the last column sets the common height
        lines.append(f"  {name} {curve} {'never ends' if n is None else f'{n} steps'}")
    return "\n".join(lines)
