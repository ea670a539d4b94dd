"""Shapes known by their values, and warmups known by a time constant."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from lrscope.errors import ScheduleError
from lrscope.schedules.base import FloatArray, Schedule, set_field
from lrscope.schedules.checks import MAX_STEPS, MAX_VALUE, number, several


@dataclass(frozen=True, repr=False)
class Table(Schedule, kind="table"):
    r"""The values themselves, one for each step.

    .. math:: s(t) = \text{entries}[\min(t, n - 1)], \quad \text{a straight line between two steps}

    Args:
        entries: One value for each of the n steps, one or more; the last one is held.

    Example:
        >>> Table((1.0, 0.8, 0.2)).values(4)
        array([1. , 0.8, 0.2, 0.2])
    """

    entries: tuple[float, ...]

    def __post_init__(self) -> None:
        entries = several("Table", "entries", self.entries)
        if not entries:
            raise ScheduleError("Table: entries must be one value or more, got none")
        checked = tuple(
            # Inline for the common case, since there may be 100 000 of them.
            v + 0.0 if type(v) is float and abs(v) <= MAX_VALUE else number("Table", f"entries[{i}]", v)
            for i, v in enumerate(entries)
        )
        set_field(self, "entries", checked)

    @property
    def num_steps(self) -> int:
        return len(self.entries)

    def _at(self, t: FloatArray) -> FloatArray:
        return np.interp(t, *self._points)

    @functools.cached_property
    def _points(self) -> tuple[FloatArray, FloatArray]:
        return np.arange(len(self.entries), dtype=np.float64), np.asarray(self.entries)


@dataclass(frozen=True, repr=False)
class ExponentialWarmup(Schedule, kind="exp_warmup"):
    r"""A warmup that closes the same share of its distance to 1 at every step.

    .. math:: s(t) = 1 - e^{-(t + 1) / \text{timescale}}

    It ends where float64 can no longer tell it from 1, after ``38 * timescale`` steps; to run it beside a decay,
    multiply: ``ExponentialWarmup(1000) * Cosine(1.0, 0.0, 50_000)``.

    Args:
        timescale: Steps after which 63 % are reached, greater than 1e-9.

    Example:
        >>> ExponentialWarmup(1.0).values(3).round(3)
        array([0.632, 0.865, 0.95 ])

    References:
        Ma, Yarats, On the Adequacy of Untuned Warmup for Adaptive Optimization, 2021, arXiv 1910.04209.
    """

    timescale: float

    def __post_init__(self) -> None:
        set_field(self, "timescale", number("ExponentialWarmup", "timescale", self.timescale, above=1e-9))
        if self.timescale * 38 > MAX_STEPS:
            raise ScheduleError("ExponentialWarmup: timescale is longer than any run; at most 2e14")

    @property
    def num_steps(self) -> int:
        return math.ceil(38 * self.timescale)

    def _at(self, t: FloatArray) -> FloatArray:
        return -np.expm1(-(t + 1.0) / self.timescale)
