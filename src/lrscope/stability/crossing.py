"""Where along the coming step the loss is back at its level: the line search behind critical learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lrscope.curvature.point import loss_and_grad
from lrscope.objective import Objective
from lrscope.optimizers.clone import NextStep
from lrscope.records import Cost
from lrscope.records.critical import CriticalStatus

GROW = 2.0
"""Factor between probes while looking for a bracket (Kalra & Barkeshli 2024: k = 2)."""

_JUMP = 1e-4
"""Relative width at which a loss that still rises by too much at the upper end has a jump."""


@dataclass(frozen=True)
class Crossing:
    """A bracket: the loss falls at learning rate ``low`` and rises at ``high``; or why there is none."""

    low: float
    high: float
    status: CriticalStatus = "found"

    @property
    def lr(self) -> float:
        """The geometric middle; ``nan`` without a bracket."""
        return math.sqrt(self.low * self.high) if self.status == "found" else math.nan


@dataclass(frozen=True)
class Search:
    """A search for the crossing, by doubling and then by safeguarded roots of parabolas.

    Args:
        smallest, largest: Learning rates tried at most.
        tol: Relative width of the final bracket.
        max_forwards: Forward passes at most.
        start: First learning rate tried, for example the last answer; by default the one that would bring the
            linearised loss to zero.
        rise: Ends instead with a learning rate that raises the loss by no more than this share of it: the upper end,
            if the loss has no jump there.

    Raises:
        ValueError: A range or tolerance is out of bounds.
    """

    smallest: float = 1e-12
    largest: float = 1e6
    tol: float = 0.05
    max_forwards: int = 40
    start: float | None = None
    rise: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.smallest < self.largest < math.inf:
            raise ValueError(
                f"smallest, largest: expected 0 < smallest < largest, got {self.smallest!r}, {self.largest!r}"
            )
        if not 0 < self.tol < 1:
            raise ValueError(f"tol: expected a relative width between 0 and 1, got {self.tol!r}")
        if not isinstance(self.max_forwards, int) or self.max_forwards < 5:
            raise ValueError(f"max_forwards: expected an integer of 5 or more, got {self.max_forwards!r}")
        if self.start is not None and not 0 < self.start < math.inf:
            raise ValueError(f"start: expected a positive learning rate or None, got {self.start!r}")
        if self.rise is not None and not 0 < self.rise <= 1:
            raise ValueError(f"rise: expected a share of the loss, above 0 and at most 1, or None, got {self.rise!r}")

    def step(self, part: Objective, optimizer: torch.optim.Optimizer, theta: Tensor) -> tuple[Crossing, Cost]:
        """The crossing of the optimizer's next step from theta, ``(P,)``, on the loss of ``part``, and its cost.

        Raises:
            MeasurementError: The loss has no gradient, or the next step cannot be tried on a copy.
        """
        before = part.spent
        loss, grad = loss_and_grad(part, theta)
        if not (math.isfinite(loss) and bool(torch.isfinite(grad).all())):
            return Crossing(math.nan, math.nan, "loss not finite"), part.spent - before
        if not bool(grad.any()):
            return Crossing(math.nan, math.nan, "zero gradient"), part.spent - before
        move = NextStep(optimizer, part.model, theta, grad)
        slope = float(grad @ move(1.0)) if move.linear else math.nan
        found = self.along(lambda lr: part.loss(theta + move(lr)), loss, slope)
        return found, part.spent - before + Cost(updates=move.updates)

    def along(self, probe: Callable[[float], float], loss: float, slope: float = math.nan) -> Crossing:
        """The crossing of ``probe(lr)`` with ``loss``, its value at 0, where its derivative is ``slope``.

        A loss that is not finite counts as raised.
        """
        if slope > 0:  # every small step raises the loss
            return Crossing(math.nan, math.nan, "momentum points uphill")
        # The step that would bring the linearised loss to zero is of the right order for any scale of loss.
        guess = -loss / slope if slope < 0 and loss > 0 else 1.0
        lr = min(max(self.start or guess, self.smallest), self.largest)
        bracket = _Bracket(slope, self.tol)
        for _ in range(self.max_forwards):
            bracket.add(lr, probe(lr) - loss)
            if bracket.low >= self.largest:
                return Crossing(lr, lr, "stable up to the largest")
            if bracket.high <= self.smallest:
                return Crossing(lr, lr, "unstable at the smallest")
            if self._is_enough(bracket, loss):
                break
            lr = min(max(bracket.next(), self.smallest), self.largest)
        if bracket.low == 0.0:
            return Crossing(bracket.high, bracket.high, "unstable at the smallest")
        if math.isinf(bracket.high):
            return Crossing(bracket.low, bracket.low, "stable up to the largest")
        return Crossing(bracket.low, bracket.high)

    def _is_enough(self, bracket: _Bracket, loss: float) -> bool:
        if self.rise is None:
            return bracket.ratio <= 1 + self.tol
        return bracket.low > 0 and (bracket.rise <= self.rise * abs(loss) or bracket.ratio <= 1 + _JUMP)


class _Bracket:
    r"""Where the rise of the loss changes sign, and where to look next.

    It works on :math:`h(\eta) = (L(\eta) - L(0)) / \eta`, which is a straight line where the loss is a parabola, and
    known at 0. Tried is the root of a line through two points of h (of a curve through three, once both ends are
    known), and rather a little beyond it, so that a good guess closes the bracket from the other side. A guess that
    brought little is followed by doubling, halving or bisection.

    Attributes:
        low, high: The loss falls at ``low`` and rises at ``high``, as far as known.
    """

    def __init__(self, slope: float, tol: float) -> None:
        self.low, self.high = 0.0, math.inf
        self._falling = [(0.0, slope)]  # the last points of h on either side
        self._rising: list[tuple[float, float]] = []
        self._nudge = 1 + 0.45 * tol
        self._misses = 0

    @property
    def ratio(self) -> float:
        return self.high / self.low if self.low > 0 else math.inf

    @property
    def rise(self) -> float:
        """Of the loss, at the upper end."""
        return self._rising[0][0] * self._rising[0][1] if self._rising else math.inf

    def add(self, lr: float, rise: float) -> None:
        """Take in a probe; a rise that is not finite counts as one."""
        before = self.ratio
        if rise <= 0:
            self.low = lr
            self._falling = [self._falling[-1], (lr, rise / lr)]
        else:
            self.high = lr
            self._rising = [(lr, rise / lr)]
        self._up = rise <= 0
        if math.isinf(self.ratio):
            self._misses += 1
        else:  # bisection would have halved it, on the scale of logarithms
            self._misses = 0 if math.isinf(before) or self.ratio <= math.sqrt(before) else self._misses + 1

    def next(self) -> float:
        """The learning rate to try next."""
        if self.low == 0:
            near = self._root(self._falling[0], self._rising[0]) / self._nudge
            return self.high * self._factor(near / self.high, GROW**-6, 1 / self._nudge, -1)
        if math.isinf(self.high):
            near = self._root(self._falling[0], self._falling[-1]) * self._nudge
            return self.low * self._factor(near / self.low, self._nudge, GROW**3, 1)
        near = self._curved(self._falling[0], self._falling[-1], self._rising[0])
        near = near * self._nudge if self._up else near / self._nudge
        return near if self._misses == 0 and self.low < near < self.high else math.sqrt(self.low * self.high)

    def _factor(self, wanted: float, least: float, most: float, sign: int) -> float:
        """The factor on the only end there is: as wanted within limits at first, by GROW at least after misses."""
        if not least <= wanted <= most:
            wanted = GROW**sign if not wanted > 0 else min(max(wanted, least), most)
        far = GROW ** (sign * (self._misses - 1))
        return max(wanted, far) if sign > 0 else min(wanted, far)

    @staticmethod
    def _root(a: tuple[float, float], b: tuple[float, float]) -> float:
        """Where the line through two points of h is zero; ``nan`` if that is not to the right of 0."""
        rise = b[1] - a[1]
        root = b[0] - b[1] * (b[0] - a[0]) / rise if math.isfinite(rise) and rise > 0 else math.nan
        return root if root > 0 else math.nan

    @classmethod
    def _curved(cls, a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
        """Where the learning rate as a parabola in h, through three points, is at h = 0; for h that rises."""
        if not a[1] < b[1] < c[1] or not math.isfinite(c[1]):
            return cls._root(b, c)
        (x, u), (y, v), (z, w) = a, b, c
        return x * v * w / ((u - v) * (u - w)) + y * u * w / ((v - u) * (v - w)) + z * u * v / ((w - u) * (w - v))
