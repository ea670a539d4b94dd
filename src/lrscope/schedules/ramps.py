"""Shapes from one value to another in a given number of steps."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from lrscope.schedules.base import FloatArray, Schedule, set_field
from lrscope.schedules.checks import number, whole


@dataclass(frozen=True, repr=False)
class Ramp(Schedule):
    """From ``start`` at step 0 to exactly ``end`` at step ``steps``; a subclass says by which path.

    With ``steps=0`` the value is ``end`` from the first step.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        owner = type(self).__name__
        set_field(self, "start", number(owner, "start", self.start))
        set_field(self, "end", number(owner, "end", self.end))
        set_field(self, "steps", whole(owner, "steps", self.steps))

    @property
    def num_steps(self) -> int:
        return self.steps

    @abstractmethod
    def _inside(self, x: FloatArray) -> FloatArray:
        """The value at x = t / steps, in [0, 1]."""

    def _at(self, t: FloatArray) -> FloatArray:
        x = np.minimum(t / max(self.steps, 1), 1.0)
        return np.where(t < self.steps, self._inside(x), self.end)


@dataclass(frozen=True, repr=False)
class Linear(Ramp, kind="linear"):
    r"""A straight line.

    .. math:: s(t) = \text{start} + (\text{end} - \text{start})\, t / \text{steps}
        \quad (t < \text{steps}), \qquad \text{end afterwards}

    Args:
        start: Value at step 0.
        end: Value at step ``steps`` and later.
        steps: Length; 0 is ``end`` from the first step.

    Example:
        >>> Linear(0.0, 1.0, 4).values(6)
        array([0.  , 0.25, 0.5 , 0.75, 1.  , 1.  ])
    """

    def _inside(self, x: FloatArray) -> FloatArray:
        return self.start + (self.end - self.start) * x


@dataclass(frozen=True, repr=False)
class Cosine(Ramp, kind="cosine"):
    r"""Half a cosine wave, flat at both ends, once: it does not climb again.

    .. math:: s(t) = \text{start} + (\text{end} - \text{start})\, (1 - \cos(\pi t / \text{steps})) / 2
        \quad (t < \text{steps}), \qquad \text{end afterwards}

    Args:
        start: Value at step 0.
        end: Value at step ``steps`` and later; the floor of a decay.
        steps: Length.

    Example:
        >>> Cosine(1.0, 0.0, 4).values(6).round(3)
        array([1.   , 0.854, 0.5  , 0.146, 0.   , 0.   ])

    References:
        Loshchilov, Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, arXiv 1608.03983,
        equation 5, for one period.
    """

    def _inside(self, x: FloatArray) -> FloatArray:
        return self.start + (self.end - self.start) * (1.0 - np.cos(np.pi * x)) / 2.0


@dataclass(frozen=True, repr=False)
class Polynomial(Ramp, kind="polynomial"):
    r"""A power of the steps that remain.

    .. math:: s(t) = \text{start} + (\text{end} - \text{start})\, (1 - (1 - t / \text{steps})^{\text{power}})
        \quad (t < \text{steps}), \qquad \text{end afterwards}

    Args:
        start: Value at step 0.
        end: Value at step ``steps`` and later.
        steps: Length.
        power: Greater than 0; 1 is :class:`Linear`, 2 leaves ``start`` fast and meets ``end`` gently.

    Example:
        >>> Polynomial(1.0, 0.0, 4, power=2).values(5)
        array([1.    , 0.5625, 0.25  , 0.0625, 0.    ])
    """

    power: float

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "power", number("Polynomial", "power", self.power, above=0))

    def _inside(self, x: FloatArray) -> FloatArray:
        return self.start + (self.end - self.start) * (1.0 - (1.0 - x) ** self.power)


@dataclass(frozen=True, repr=False)
class Sqrt(Ramp, kind="sqrt"):
    r"""The square root of the steps done: the "1 - sqrt" cooldown when it goes down.

    .. math:: s(t) = \text{start} + (\text{end} - \text{start})\, \sqrt{t / \text{steps}}
        \quad (t < \text{steps}), \qquad \text{end afterwards}

    Args:
        start: Value at step 0.
        end: Value at step ``steps`` and later.
        steps: Length.

    Example:
        >>> Sqrt(1.0, 0.0, 4).values(5).round(3)
        array([1.   , 0.5  , 0.293, 0.134, 0.   ])

    References:
        Hägele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, 2024,
        arXiv 2405.18392: the (1-sqrt) cooldown.
    """

    def _inside(self, x: FloatArray) -> FloatArray:
        return self.start + (self.end - self.start) * np.sqrt(x)


@dataclass(frozen=True, repr=False)
class Exponential(Ramp, kind="exponential"):
    r"""The same factor at every step: a straight line in the logarithm.

    .. math:: s(t) = \text{start}\, (\text{end} / \text{start})^{t / \text{steps}}
        \quad (t < \text{steps}), \qquad \text{end afterwards}

    Args:
        start: Value at step 0, greater than 0.
        end: Value at step ``steps`` and later, greater than 0. For a factor gamma per step,
            ``end = start * gamma**steps``.
        steps: Length.

    Example:
        >>> Exponential(1.0, 0.01, 4).values(5).round(3)
        array([1.   , 0.316, 0.1  , 0.032, 0.01 ])
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        number("Exponential", "start", self.start, above=0)
        number("Exponential", "end", self.end, above=0)

    def _inside(self, x: FloatArray) -> FloatArray:
        # Differences of logarithms, and the factor in two halves, since end / start itself may overflow.
        half = np.exp((np.log(self.end) - np.log(self.start)) * (x / 2.0))
        return self.start * half * half
