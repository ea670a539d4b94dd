"""A linear warmup that starts where the loss begins to rise, instead of at 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lrscope.records import CriticalLR
from lrscope.schedules import Linear, Schedule
from lrscope.schedules.checks import number, whole

FALLBACK = 0.1
"""Share of the peak to start at where no critical learning rate was found (Kalra & Barkeshli 2024)."""


@dataclass(frozen=True)
class CriticalWarmup:
    """A linear warmup that starts at the critical learning rate, and what that saves.

    Attributes:
        schedule: Learning rates; it ends at the peak, so ``.schedule.then(Cosine(peak, 0.0, 9_000))`` goes on.
        start, peak: Learning rate of the first update, and where it goes.
        steps: Updates that the warmup from 0 would take.
        reach_steps: Updates until the peak, the first one at ``start``.
        search_steps: What finding the critical learning rate cost, in training steps (one is two forward passes).
        reason: Why it starts where it starts.
    """

    schedule: Schedule
    start: float
    peak: float
    steps: int
    reach_steps: int
    search_steps: float
    reason: str

    @property
    def saved_steps(self) -> float:
        """Training steps saved, net of the search; negative where the search cost more than it brought."""
        return self.steps - self.reach_steps - self.search_steps

    def __str__(self) -> str:
        lost = " lost, as the search cost more than it brought" if self.saved_steps < 0 else " saved"
        return (
            f"warmup from {self.start:.3g} ({self.reason}) reaches {self.peak:.3g} after {self.reach_steps} updates "
            f"instead of {self.steps}: {abs(self.saved_steps):.3g} training steps{lost} "
            f"(search: {self.search_steps:.3g})"
        )


def warmup_from_critical(critical_lr: CriticalLR | float, peak: float, steps: int) -> CriticalWarmup:
    r"""Linear warmup from the critical learning rate :math:`\eta_c` instead of 0, with the slope kept.

    .. math:: \eta_t = \min(\eta_c + \eta_{peak}\, t / T,\; \eta_{peak}), \qquad
              T_{reach} = \max(1,\; T (1 - \eta_c / \eta_{peak}))

    Below :math:`\eta_c` a step lowers the loss anyway, so the part of a warmup that is spent there protects from
    nothing. The slope is what makes instabilities mild, so it stays.

    With momentum :math:`\mu`, SGD repeats the first step until it is :math:`1/(1-\mu)` times as long, and a critical
    learning rate that was measured at the first step does not know of it: the warmup starts at
    :math:`(1-\mu)\,\eta_c` (in general at :math:`\eta_c` over ``critical_lr.growth``). (Ours: the paper uses it
    without momentum, and with Adam, whose steps do not grow.)

    Args:
        critical_lr: From :func:`~lrscope.stability.critical_lr`, or a number. Where none was found, the warmup
            starts at a tenth of the peak, and says why.
        peak: Learning rate to reach; of the same optimizer.
        steps: T, the updates that the warmup from 0 would take.

    Returns:
        :class:`CriticalWarmup`. Its schedule holds learning rates, for an optimizer of base rate 1 or
        ``ScheduledLR(..., absolute=["lr"])``; ``schedule / peak`` are factors.

    Raises:
        ScheduleError: A number is out of range.

    Example:
        >>> found = warmup_from_critical(0.25, peak=1.0, steps=8)
        >>> found.schedule.values(8)
        array([0.25 , 0.375, 0.5  , 0.625, 0.75 , 0.875, 1.   , 1.   ])
        >>> print(found)
        warmup from 0.25 (given) reaches 1 after 6 updates instead of 8: 2 training steps saved (search: 0)

    References:
        Kalra and Barkeshli, "Why Warmup the Learning Rate?", 2024, arXiv 2406.09405, the section on the initial
        learning rate of warmup. One training step is booked as two forward passes, as there.
    """
    peak = number("warmup_from_critical", "peak", peak, above=0.0)
    steps = whole("warmup_from_critical", "steps", steps, at_least=1)
    if isinstance(critical_lr, CriticalLR):
        start, reason = _start(critical_lr, peak)
        cost = critical_lr.cost.in_gradients(per_forward=0.5)
    else:
        start, reason, cost = number("warmup_from_critical", "critical_lr", critical_lr, above=0.0), "given", 0.0
    if start >= peak:
        shape, reach = Linear(peak, peak, 1), 1
        reason += f": {start:.3g} is critical, above the peak" if start > peak else ""
    else:
        reach = max(1, math.ceil(steps * (1 - start / peak) - 1e-9))
        shape = Linear(start, start + peak * reach / steps, reach).clip(high=peak)
    return CriticalWarmup(shape, min(start, peak), peak, steps, reach, cost, reason)


def _start(critical: CriticalLR, peak: float) -> tuple[float, str]:
    if critical.status == "found":
        growth = max(critical.growth, 1.0)
        note = f", divided by {growth:.3g}, as later steps are so much longer" if growth > 1.05 else ""
        return critical.lr / growth, f"where the loss begins to rise{note}"
    if critical.status == "stable up to the largest":
        return critical.high, "the largest that was tried, and it lowered the loss"
    return peak * FALLBACK, f"a tenth of the peak, as no critical learning rate was found: {critical.status}"
