"""Shapes that need no horizon: they may go on for ever."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from lrscope.errors import ScheduleError
from lrscope.schedules.base import FloatArray, Schedule, set_field
from lrscope.schedules.checks import number, several, short, whole


@dataclass(frozen=True, repr=False)
class Constant(Schedule, kind="constant"):
    r"""One value at every step.

    .. math:: s(t) = \text{value}

    Args:
        value: The value.
        steps: Length; ``None`` never ends. The length only matters to what follows by :meth:`then`.

    Example:
        >>> Constant(0.5, 2).values()
        array([0.5, 0.5])
    """

    value: float
    steps: int | None = None

    def __post_init__(self) -> None:
        set_field(self, "value", number("Constant", "value", self.value))
        set_field(self, "steps", None if self.steps is None else whole("Constant", "steps", self.steps))

    @property
    def num_steps(self) -> int | None:
        return self.steps

    def _at(self, t: FloatArray) -> FloatArray:
        return np.full_like(t, self.value)


@dataclass(frozen=True, repr=False)
class InverseSqrt(Schedule, kind="inverse_sqrt"):
    r"""One over the square root of the step; needs no horizon.

    .. math:: s(t) = \text{start} / \sqrt{1 + \min(t, \text{steps}) / \text{timescale}}

    Args:
        start: Value at step 0.
        timescale: Steps after which the value is ``start / sqrt(2)``, 1 or more. After a warmup of W steps,
            ``timescale=W`` is the usual schedule of the Transformer.
        steps: Length; ``None`` never ends.

    Example:
        >>> InverseSqrt(1.0, 4).values(13)[[0, 4, 12]].round(3)
        array([1.   , 0.707, 0.5  ])

    References:
        Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762, equation 3, after the warmup.
    """

    start: float
    timescale: int
    steps: int | None = None

    def __post_init__(self) -> None:
        set_field(self, "start", number("InverseSqrt", "start", self.start))
        set_field(self, "timescale", whole("InverseSqrt", "timescale", self.timescale, at_least=1))
        set_field(self, "steps", None if self.steps is None else whole("InverseSqrt", "steps", self.steps))

    @property
    def num_steps(self) -> int | None:
        return self.steps

    def _at(self, t: FloatArray) -> FloatArray:
        t = t if self.steps is None else np.minimum(t, self.steps)
        return self.start / np.sqrt(1.0 + t / self.timescale)


@dataclass(frozen=True, repr=False)
class Piecewise(Schedule, kind="piecewise"):
    r"""Constant between boundaries.

    .. math:: s(t) = \text{levels}[i], \quad i = \#\{\, b \in \text{boundaries} : b \le t \,\}

    Args:
        levels: The values, one more than there are boundaries; they are not factors on the level before.
        boundaries: The steps at which the next level begins, increasing, 1 or more.
        steps: Length, not less than the last boundary; ``None`` never ends.

    Example:
        >>> Piecewise((1.0, 0.1), (2,)).values(4)
        array([1. , 1. , 0.1, 0.1])
    """

    levels: tuple[float, ...]
    boundaries: tuple[int, ...]
    steps: int | None = None

    def __post_init__(self) -> None:
        levels = tuple(number("Piecewise", "levels", v) for v in several("Piecewise", "levels", self.levels))
        bounds = tuple(
            whole("Piecewise", "boundaries", b, at_least=1)
            for b in several("Piecewise", "boundaries", self.boundaries)
        )
        if len(levels) != len(bounds) + 1:
            raise ScheduleError(
                f"Piecewise: levels must be one more than boundaries, got {len(levels)} levels and "
                f"{len(bounds)} boundaries"
            )
        if any(a >= b for a, b in itertools.pairwise(bounds)):
            raise ScheduleError(f"Piecewise: boundaries must increase, got {short(bounds)}")
        set_field(self, "levels", levels)
        set_field(self, "boundaries", bounds)
        last = bounds[-1] if bounds else 0
        if self.steps is not None:
            set_field(self, "steps", whole("Piecewise", "steps", self.steps, at_least=last))

    @property
    def num_steps(self) -> int | None:
        return self.steps

    def _at(self, t: FloatArray) -> FloatArray:
        return np.asarray(self.levels)[np.searchsorted(self.boundaries, t, side="right")]
