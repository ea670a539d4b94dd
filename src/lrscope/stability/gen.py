"""A learning rate from forward passes: the bottom of the parabola that the loss draws along the next step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lrscope.errors import MeasurementError, ScheduleError
from lrscope.objective import Objective
from lrscope.optimizers.clock import innermost
from lrscope.optimizers.clone import NextStep
from lrscope.schedules import Constant, FeedbackSchedule, Schedule
from lrscope.schedules.checks import MAX_VALUE, number, whole
from lrscope.schedules.feedback import State, heard
from lrscope.stability.jump import ready_gradient

_ONE = Constant(1.0)


@dataclass(frozen=True)
class Parabola:
    r""":math:`L(x) - L(0) \approx \tfrac12 a x^2 - b x` along one step, x a learning rate.

    Attributes:
        curvature: a; for the direction d of a learning rate of 1 it is :math:`d^T H d`.
        slope: b, :math:`-\langle g, d\rangle`: positive where the step goes down.
        r_squared: Share of the variance of the losses that the parabola explains.
    """

    curvature: float
    slope: float
    r_squared: float

    @classmethod
    def through(cls, x: np.ndarray, rise: np.ndarray) -> Parabola:
        """Least squares through the origin; ``x`` learning rates and ``rise`` losses less L(0), both ``(n,)``."""
        unit = float(np.abs(x).max())
        columns = np.stack([0.5 * (x / unit) ** 2, -x / unit], axis=1)
        found = np.linalg.lstsq(columns, rise, rcond=None)[0]
        spread = float(((rise - rise.mean()) ** 2).sum())
        missed = float(((rise - columns @ found) ** 2).sum())
        return cls(float(found[0]) / unit**2, float(found[1]) / unit, 1 - missed / spread if spread > 0 else math.nan)

    @property
    def bottom(self) -> float:
        """Where it is lowest; infinity where it goes down for ever, ``nan`` where it goes up from the start."""
        if not self.slope > 0:
            return math.nan
        return self.slope / self.curvature if self.curvature > 0 else math.inf


@dataclass(frozen=True)
class GeN(FeedbackSchedule, kind="gen"):
    r"""Sets its own learning rate from a few forward passes along the optimizer's next step, every few updates.

    The loss of a batch is read at :math:`\theta + r\,\eta\,d` for the step :math:`\eta d` that the optimizer would
    make, r in -1 ... 1, and a parabola fitted, :math:`L \approx L_0 - b x + \tfrac12 a x^2`. Its bottom is
    :math:`\eta^* = b / a = -\langle g, d\rangle / d^T H d`. The learning rate follows slowly, and at a factor of 2:

    .. math:: \eta \leftarrow (1 - s)\,\eta + s\,\mathrm{clip}(\eta^*, \eta/2, 2\eta)

    where the fit is good (R² above ``min_r_squared``) and goes down ahead (:math:`b > 0`; where it does not bend up,
    :math:`\eta^*` is infinite), and is halved where not. The optimizer's own step decides d, tried on a copy: any
    first-order one will do, and its moments do not move twice.

    ``ScheduledLR`` runs it, and :func:`lrscope.train` knows what to do. In a loop of your own call
    ``scheduler.observe(loss=..., measure_on=...)`` between ``loss.backward()`` (and clipping) and
    ``optimizer.step()``; what ``measure_on`` makes may hold another batch than that of the gradient.
    Multiplied by a schedule, ``GeN(0.1) * Cosine(1, 0, 5000)``, the rate that it follows is scaled for the update
    only, so a decay is a decay, and a warmup a warmup.

    **When it misleads.** The bottom along one step is a greedy choice: on a batch the gradient was taken of it is too
    far, since each batch is its own best friend; and what lowers the loss most now is rarely what lowers it most in
    the end. So give it a decay.

    Args:
        start: The first learning rate, as a factor on each group's own rate (of 1 where an optimizer is given by
            name). Within a factor of ten of a good one: it changes by a tenth per measurement.
        every: Updates between two measurements.
        points: Places along the step where the loss is read, 3 or more, an odd number. With 3 any parabola fits, and
            ``min_r_squared`` is never missed.
        smoothing: s, the share of the new in the average.
        low, high: The learning rate stays between them, as factors like ``start``.
        min_r_squared: A fit that explains less is not used.
        scale: Factors on the learning rate, from a product with a :class:`Schedule`.

    Cost: ``points`` forward passes over one batch, and two updates on copies, every ``every`` updates: with the
    defaults 1/6 of a training step per update.

    Raises:
        ScheduleError: A number is out of range; when it runs, that it does not drive all groups.
        MeasurementError: When it runs: there is no gradient, or only a sparse one, or the optimizer's next step
            cannot be tried on a copy.

    Example:
        >>> import torch
        >>> import lrscope as lrs
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> scheduler = lrs.ScheduledLR(optimizer, GeN(0.1, every=1) * 0.1)
        >>> batch = torch.eye(3)
        >>> def loss_fn(model, batch):
        ...     return model(batch).square().mean()
        >>> for _ in range(60):
        ...     optimizer.zero_grad()
        ...     loss = loss_fn(model, batch)
        ...     loss.backward()
        ...     scheduler.observe(loss=loss, measure_on=lambda: lrs.Objective(model, loss_fn, [batch]))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> round(optimizer.param_groups[0]["lr"], 2)  # a tenth of the inverse curvature, 3/2
        0.15

    References:
        Bu and Xu, "GeN", 2024, arXiv 2407.02772, and the automatic learning rate of arXiv 2410.22086 in its authors'
        code: the parabola, the average, the factor of 2, the halving. Not theirs: the copy of the optimizer, five
        points instead of three, the bounds; that a schedule scales the update and not the average (where a scale
        below 1/2 would be applied again at each measurement); and that a loss which goes down without bending up
        raises the rate instead of halving it (else a rate so small that no bend can be resolved only gets smaller).
    """

    start: float
    every: int = 10
    points: int = 5
    smoothing: float = 0.1
    low: float = 0.0
    high: float = MAX_VALUE
    min_r_squared: float = 0.99
    scale: Schedule = _ONE

    every_update = True
    measures = True

    def __post_init__(self) -> None:
        number("GeN", "start", self.start, above=0.0)
        whole("GeN", "every", self.every, at_least=1, of="updates")
        if whole("GeN", "points", self.points, at_least=3, of="places") % 2 == 0:
            raise ScheduleError(f"GeN: points must be an odd number, so that one is the present, got {self.points}")
        if not 0 < number("GeN", "smoothing", self.smoothing) <= 1:
            raise ScheduleError(f"GeN: smoothing must be above 0 and at most 1, got {self.smoothing:g}")
        if not 0 <= number("GeN", "low", self.low) <= self.start <= number("GeN", "high", self.high):
            raise ScheduleError(
                f"GeN: needs 0 <= low <= start <= high, got low={self.low:g}, start={self.start:g}, "
                f"high={self.high:g}"
            )
        if number("GeN", "min_r_squared", self.min_r_squared) >= 1:
            raise ScheduleError(f"GeN: min_r_squared must be below 1, got {self.min_r_squared:g}")
        if not isinstance(self.scale, Schedule):
            raise ScheduleError(f"GeN: scale must be a Schedule, got {type(self.scale).__name__}")

    def __mul__(self, other: Schedule | float) -> GeN:
        if not isinstance(other, Schedule):
            factor = number("GeN", "*", other)
            return replace(self, scale=self.scale * factor)
        return replace(self, scale=other if self.scale == _ONE else self.scale * other)

    __rmul__ = __mul__

    def parted(self) -> tuple[FeedbackSchedule, Schedule]:
        return replace(self, scale=_ONE), self.scale

    def bounds(self) -> tuple[float, float]:
        return self.low, self.high if self.high < MAX_VALUE else math.inf

    def init(self) -> State:
        return {"lr": self.start, "measured_at": -1, "fits": 0, "failures": 0, "forwards": 0, "curvature": None}

    def value(self, state: State, step: int) -> float:
        return state["lr"] * self.scale(step)

    def update(self, state: State, step: int, observed: Mapping[str, float]) -> State:
        if not self._is_due(state, step, observed):
            return state
        if "best_lr" not in observed:
            raise MeasurementError(
                "GeN: has to read the loss along the next step and cannot; give the scheduler "
                "observe(loss=loss, measure_on=lambda: lrs.Objective(model, loss_fn, [batch]))"
            )
        lr, best = state["lr"], float(observed["best_lr"])
        found = not math.isnan(best)
        new = (1 - self.smoothing) * lr + self.smoothing * min(max(best, lr / 2), 2 * lr) if found else lr / 2
        return {
            "lr": min(max(new, self.low), self.high),
            "measured_at": step,
            "fits": state["fits"] + found,
            "failures": state["failures"] + (not found),
            "forwards": state["forwards"] + int(observed["forwards"]),
            "curvature": float(observed["curvature"]) if found else state["curvature"],
        }

    def measure(
        self,
        state: State,
        step: int,
        observed: Mapping[str, float],
        objective: Callable[[], Objective],
        optimizer: Any,
        unit: float,
    ) -> Mapping[str, float]:
        if not self._is_due(state, step, observed):
            return {}
        found, forwards = fit_along_step(objective(), optimizer, state["lr"] * unit, points=self.points)
        good = found is not None and found.r_squared > self.min_r_squared
        return {
            "best_lr": found.bottom / unit if found is not None and good else math.nan,
            "curvature": found.curvature if found is not None else math.nan,
            "forwards": forwards,
        }

    def told(self, state: State) -> str:
        """What it did so far, in one sentence; ``state`` is ``scheduler.heard["lr"]``."""
        tries = state["fits"] + state["failures"]
        return (
            f"GeN: learning rate {state['lr']:.3g} after {tries} measurements, {state['failures']} of them without a "
            f"usable parabola (the rate was halved); {state['forwards']} forward passes, the work of "
            f"{state['forwards'] / 3:.3g} training steps"
        )

    def _is_due(self, state: State, step: int, observed: Mapping[str, float]) -> bool:
        """Whether to measure; a batch whose loss is not finite says nothing about the learning rate."""
        loss = heard(self, observed, "loss")
        if step % self.every != 0 or step == state["measured_at"]:
            return False
        return math.isfinite(loss)


def fit_along_step(
    objective: Objective, optimizer: Any, lr: float, *, points: int = 5
) -> tuple[Parabola | None, int]:
    """The parabola through losses at ``points`` even places from one step of ``lr`` back to one ahead.

    Args:
        objective: The loss; its model holds the gradients of the coming update in ``.grad``.
        optimizer: The live optimizer; its next step is tried on a copy.
        lr: Learning rate of its first group that is not at 0.
        points: An odd number, 3 or more.

    Returns:
        The fit, in units of ``lr``, or ``None`` where a loss or the gradient is not finite, or the gradient is 0; and
        the forward passes made.
    """
    inner = innermost(optimizer)
    grad = ready_gradient(objective, "GeN")
    size = float(grad.norm())
    if not math.isfinite(size) or size == 0:
        return None, 0
    theta = objective.point()
    step = NextStep(inner, objective.model, theta, grad)(lr)
    shares = np.linspace(-1.0, 1.0, points)
    losses = np.array([objective.loss(theta + float(r) * step) for r in shares])
    if not np.isfinite(losses).all():
        return None, points
    # float32 losses of nearly the same size: their differences are taken in double, and from the middle one
    return Parabola.through(shares * lr, losses - losses[points // 2]), points
