"""One schedule made from one other: a part of it, slower, again, backwards, within bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from lrscope.errors import ScheduleError
from lrscope.schedules.base import FloatArray, Schedule, set_field
from lrscope.schedules.checks import MAX_STEPS, check_nesting, did_you_mean, number, short, whole
from lrscope.schedules.shapes import Constant


@dataclass(frozen=True, repr=False)
class Operation(Schedule):
    """A schedule made from one ``schedule``; a subclass says how."""

    schedule: Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise ScheduleError(f"{type(self).__name__}: schedule must be a Schedule, got {short(self.schedule)}")
        check_nesting(self)

    def _length(self) -> int:
        """The length of ``schedule``, which this operation cannot do without."""
        length = self.schedule.num_steps
        if length is None:
            name = type(self).__name__
            raise ScheduleError(f"{name}: {short(self.schedule)} never ends; cut it first, as in .first(1000)")
        return length


@dataclass(frozen=True, repr=False)
class AsLong(Operation):
    """An operation on a schedule that ends, as long as that is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._length()

    @property
    def num_steps(self) -> int:
        return self._length()


@dataclass(frozen=True, repr=False)
class Clip(Operation, kind="clip"):
    r"""A schedule kept within bounds. Written ``s.clip(low, high)``.

    .. math:: c(t) = \min(\max(s(t), \text{low}), \text{high})

    Args:
        schedule: What is kept within bounds.
        low: The floor; ``None`` for none.
        high: The ceiling; ``None`` for none.

    Example:
        >>> from lrscope.schedules import Linear
        >>> Linear(1.0, 0.0, 4).clip(low=0.5).values(6)
        array([1.  , 0.75, 0.5 , 0.5 , 0.5 , 0.5 ])
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = (None if v is None else number("Clip", n, v) for n, v in (("low", self.low), ("high", self.high)))
        if low is None and high is None:
            raise ScheduleError("Clip: needs low, high or both")
        if low is not None and high is not None and low > high:
            raise ScheduleError(f"Clip: low must not be above high, got {low:g} and {high:g}")
        set_field(self, "low", low)
        set_field(self, "high", high)

    @property
    def num_steps(self) -> int | None:
        return self.schedule.num_steps

    def _at(self, t: FloatArray) -> FloatArray:
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        return np.minimum(np.maximum(self.schedule._at(t), low), high)


@dataclass(frozen=True, repr=False)
class First(Operation, kind="first"):
    r"""The first steps of a schedule. Written ``s.first(steps)``.

    .. math:: f(t) = s(\min(t, \text{steps}))

    Example:
        >>> from lrscope.schedules import Linear
        >>> Linear(1.0, 0.0, 4).first(2).values(4)
        array([1.  , 0.75, 0.5 , 0.5 ])
    """

    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "steps", whole("First", "steps", self.steps))

    @property
    def num_steps(self) -> int:
        return self.steps

    def _at(self, t: FloatArray) -> FloatArray:
        return self.schedule._at(np.minimum(t, self.steps))


@dataclass(frozen=True, repr=False)
class After(Operation, kind="after"):
    r"""What remains of a schedule. Written ``s.after(steps)``.

    .. math:: r(t) = s(t + \text{steps})

    Example:
        >>> from lrscope.schedules import Linear
        >>> Linear(1.0, 0.0, 4).after(2).values()
        array([0.5 , 0.25])
    """

    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "steps", whole("After", "steps", self.steps))

    @property
    def num_steps(self) -> int | None:
        length = self.schedule.num_steps
        return None if length is None else max(length - self.steps, 0)

    def _at(self, t: FloatArray) -> FloatArray:
        return self.schedule._at(t + self.steps)


@dataclass(frozen=True, repr=False)
class Stretch(Operation, kind="stretch"):
    r"""A schedule of n steps, slower or faster, so that it takes ``steps``. Written ``s.stretch(steps)``.

    .. math:: r(t) = s(t\, n / \text{steps}) \quad (t < \text{steps}), \qquad s(n) \text{ afterwards}

    Args:
        schedule: One that has an end.
        steps: The new length.

    Example:
        >>> from lrscope.schedules import Linear
        >>> Linear(1.0, 0.0, 2).stretch(4).values(6)
        array([1.  , 0.75, 0.5 , 0.25, 0.  , 0.  ])
    """

    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._length()
        set_field(self, "steps", whole("Stretch", "steps", self.steps))

    @property
    def num_steps(self) -> int:
        return self.steps

    def _at(self, t: FloatArray) -> FloatArray:
        length = self._length()
        # In lowest terms, so that steps which fall on whole steps fall on them exactly.
        common = max(math.gcd(length, self.steps), 1)
        inside = t * (length // common) / max(self.steps // common, 1)
        return self.schedule._at(np.where(t < self.steps, inside, length))


@dataclass(frozen=True, repr=False)
class Repeat(Operation, kind="repeat"):
    r"""A schedule of n steps again and again. Written ``s.repeat(times)``.

    .. math:: r(t) = s(t \bmod n) \quad (t < \text{times} \cdot n), \qquad s(n) \text{ afterwards}

    Args:
        schedule: One that has an end, of one step or more.
        times: How often; ``None`` never ends.

    Example:
        >>> from lrscope.schedules import Linear
        >>> Linear(1.0, 0.0, 2).repeat(2).values(6)
        array([1. , 0.5, 1. , 0.5, 0. , 0. ])
    """

    times: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._length() < 1:
            raise ScheduleError(f"Repeat: {short(self.schedule)} has no steps to repeat")
        if self.times is not None:
            set_field(self, "times", whole("Repeat", "times", self.times, of="times"))
            if self.times * self._length() > MAX_STEPS:
                raise ScheduleError("Repeat: more than 2**53 steps in all; repeat fewer times")

    @property
    def num_steps(self) -> int | None:
        return None if self.times is None else self.times * self._length()

    def _at(self, t: FloatArray) -> FloatArray:
        length = self._length()
        inside = np.mod(t, length)
        return self.schedule._at(inside if self.times is None else np.where(t < self.times * length, inside, length))


@dataclass(frozen=True, repr=False)
class Reverse(AsLong, kind="reverse"):
    r"""A schedule of n steps backwards. Written ``s.reverse()``.

    .. math:: r(t) = s(\max(n - t, 0))

    Example:
        >>> from lrscope.schedules import Linear
        >>> Linear(1.0, 0.0, 2).reverse().values(4)
        array([0. , 0.5, 1. , 1. ])
    """

    def _at(self, t: FloatArray) -> FloatArray:
        return self.schedule._at(np.maximum(self._length() - t, 0.0))


@dataclass(frozen=True, repr=False)
class Bounded(AsLong, kind="bounded"):
    """A schedule that may not be run past its end. Written ``s.with_end("error")``.

    Its end value, at step ``num_steps``, may still be asked for: a scheduler writes it after the last update.

    Example:
        >>> from lrscope.schedules import Linear
        >>> Linear(1.0, 0.0, 2).with_end("error")(3)
        Traceback (most recent call last):
        lrscope.errors.ScheduleError: step 3 is past the end of Linear(1.0, 0.0, 2), which has 2 steps; ...
    """

    def _at(self, t: FloatArray) -> FloatArray:
        length = self._length()
        if t.size and t.max() > length:
            raise ScheduleError(
                f"step {t.max():.0f} is past the end of {short(self.schedule)}, which has {length} steps; "
                'give the run its length, or end the schedule with "hold", "zero" or "repeat"'
            )
        return self.schedule._at(t)


def shift(schedule: Schedule, steps: int) -> Schedule:
    """``schedule`` that much later, its first value held until then, or earlier."""
    if isinstance(steps, bool) or not isinstance(steps, Integral):
        raise ScheduleError(
            f"shift: steps must be a whole number, negative for earlier, got {short(steps)} ({type(steps).__name__})"
        )
    if steps < 0:
        return After(schedule, -int(steps))
    return Constant(schedule(0), whole("shift", "steps", steps)).then(schedule)


def with_end(schedule: Schedule, end: str) -> Schedule:
    """``schedule`` with another value past its end."""
    ends = {
        "hold": lambda: schedule,
        "zero": lambda: schedule.then(0.0),
        "repeat": schedule.repeat,
        "error": lambda: Bounded(schedule),
    }
    if end not in tuple(ends):
        raise ScheduleError(f"with_end: unknown end {short(end)}; {did_you_mean(end, ends)}")
    return ends[end]()
