"""Shapes that come back: restarts, waves, steps of one factor. They may go on for ever."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields

import numpy as np

from lrscope.errors import ScheduleError
from lrscope.schedules.base import FloatArray, Schedule, set_field
from lrscope.schedules.checks import MAX_VALUE, number, whole


class _Endless(Schedule):
    """Numbers for arguments, and last of all ``steps``: the length, from which on the value is held."""

    steps: int | None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for f in fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, f.name)
            if f.name == "steps":
                set_field(self, "steps", None if value is None else whole(owner, "steps", value))
            elif f.name == "every":
                set_field(self, "every", whole(owner, "every", value, at_least=1))
            else:
                set_field(self, f.name, number(owner, f.name, value, above=_ABOVE.get(f.name)))

    @property
    def num_steps(self) -> int | None:
        return self.steps

    @abstractmethod
    def _endless(self, t: FloatArray) -> FloatArray:
        """The values if it had no end."""

    def _at(self, t: FloatArray) -> FloatArray:
        return self._endless(t if self.steps is None else np.minimum(t, self.steps))


_ABOVE = {"factor": 0.0, "peak_decay": 0.0, "period": 1e-9}  # a shorter period would only overflow


@dataclass(frozen=True, repr=False)
class StepDecay(_Endless, kind="step"):
    r"""One factor every so many steps; with ``every=1`` an exponential decay that needs no horizon.

    .. math:: s(t) = \text{factor}^{\lfloor t / \text{every} \rfloor}

    Args:
        factor: Greater than 0. Values stop at 1e30.
        every: Steps from one drop to the next.
        steps: Length; ``None`` never ends.

    Example:
        >>> StepDecay(0.5, every=2).values(6)
        array([1.  , 1.  , 0.5 , 0.5 , 0.25, 0.25])
    """

    factor: float
    every: int = 1
    steps: int | None = None

    def _endless(self, t: FloatArray) -> FloatArray:
        with np.errstate(over="ignore", under="ignore"):
            return np.minimum(self.factor ** np.floor(t / self.every), MAX_VALUE)


@dataclass(frozen=True, repr=False)
class CosineWave(_Endless, kind="wave"):
    r"""A full cosine wave, down and up again, over and over.

    .. math:: s(t) = \text{low} + (\text{high} - \text{low})\, (1 + \cos(2 \pi t / \text{period})) / 2

    PyTorch's ``CosineAnnealingLR(T_max)`` run past its end is this wave with a period of ``2 * T_max``;
    :class:`Cosine` is its first half and then stays down.

    Args:
        high: Value at step 0 and at every whole period.
        low: Value half a period later.
        period: Steps of one wave; need not be whole.
        steps: Length; ``None`` never ends. A whole number of periods ends at ``high`` and holds it; a run that may go
            on longer ends with ``.then(low)``.

    Example:
        >>> CosineWave(1.0, 0.0, 4).values(6).round(2)
        array([1. , 0.5, 0. , 0.5, 1. , 0.5])
    """

    high: float
    low: float
    period: float
    steps: int | None = None

    def _endless(self, t: FloatArray) -> FloatArray:
        x = np.mod(t, self.period) / self.period
        return self.low + (self.high - self.low) * (1.0 + np.cos(2.0 * np.pi * x)) / 2.0


@dataclass(frozen=True, repr=False)
class WarmRestarts(_Endless, kind="warm_restarts"):
    r"""Cosine annealing with warm restarts (SGDR).

    .. math:: s(t) = \text{low} + (p_i - \text{low})\, (1 + \cos(\pi (t - S_i) / P_i)) / 2, \quad
        P_i = \text{period} \cdot \text{mult}^i, \quad p_i = \text{high} \cdot \mathrm{peak\_decay}^i

    where cycle i has the steps from :math:`S_i = P_0 + \dots + P_{i-1}` to :math:`S_{i+1}`. At whole steps the value
    comes close to ``low`` at the end of a cycle without reaching it; the step after is the restart.

    Args:
        high: The first peak. Peaks stop growing at 1e30.
        low: The floor of every cycle.
        period: Steps of the first cycle; need not be whole.
        mult: Each cycle is so many times as long as the one before, 1 or more.
        peak_decay: Each peak is so many times as high as the one before.
        steps: Length; ``None`` never ends. The value at step ``steps`` is held: at the end of a cycle that is the
            next peak. A run that may go on longer stops at the floor with a cycle and ``.then(low)``: with
            ``period=10, mult=2`` cycles end at 10, 30, 70, 150.

    Example:
        >>> WarmRestarts(1.0, 0.0, 2, mult=2).values(7).round(2)
        array([1.  , 0.5 , 1.  , 0.85, 0.5 , 0.15, 1.  ])

    References:
        Loshchilov, Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, arXiv 1608.03983,
        equation 5; studied in Gotmare et al., 2018, arXiv 1810.13243.
    """

    high: float
    low: float
    period: float
    mult: float = 1.0
    peak_decay: float = 1.0
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mult < 1:
            raise ScheduleError(f"WarmRestarts: mult must be 1 or more, got {self.mult:g}")

    def _endless(self, t: FloatArray) -> FloatArray:
        if self.mult == 1:
            cycle = np.floor(t / self.period)
        else:
            cycle = np.floor(np.log1p(t * (self.mult - 1) / self.period) / np.log(self.mult))
        # Rounding may land one cycle off where a cycle begins.
        cycle = cycle - (t < self._start(cycle))
        cycle = cycle + (t >= self._start(cycle + 1))
        length = self.period * self.mult**cycle
        x = np.minimum(np.maximum((t - self._start(cycle)) / length, 0.0), 1.0)
        with np.errstate(over="ignore"):
            decay = np.minimum(self.peak_decay**cycle, MAX_VALUE)
        peak = np.minimum(np.maximum(self.high * decay, -MAX_VALUE), MAX_VALUE)
        return self.low + (peak - self.low) * (1.0 + np.cos(np.pi * x)) / 2.0

    def _start(self, cycle: FloatArray) -> FloatArray:
        """The step at which each cycle begins."""
        if self.mult == 1:
            start = cycle * self.period
        else:
            growth = self.mult**cycle
            # The difference would cancel where cycles hardly grow.
            grown = np.where(growth < 2, np.expm1(cycle * np.log(self.mult)), growth - 1.0)
            start = self.period * grown / (self.mult - 1.0)
        # 10 + 11 + 12.1 + ... has no exact binary form, and a restart must not come a step late for that.
        whole_steps = np.rint(start)
        return np.where(np.abs(start - whole_steps) <= 1e-12 * whole_steps, whole_steps, start)
