"""The critical learning rate by the loss catapult: no second derivatives, a handful of forward passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from lrscope.curvature import preconditioner, sharpness, stability_threshold
from lrscope.errors import MeasurementError
from lrscope.objective import Objective
from lrscope.optimizers import OptimizerSpec
from lrscope.optimizers.clone import NextStep
from lrscope.records import Cost, CriticalLR

GROW = 2.0
"""Factor between probes while looking for a bracket (Kalra & Barkeshli 2024, section 4.2: k = 2)."""


def critical_lr(
    objective: Objective,
    optimizer: torch.optim.Optimizer | OptimizerSpec | str = "sgd",
    *,
    smallest: float = 1e-12,
    largest: float = 1e6,
    tol: float = 0.05,
    max_forwards: int = 40,
    curvature: bool = True,
) -> CriticalLR:
    r"""Largest learning rate whose next step does not raise the loss.

    From the current theta one optimizer step is tried at several learning rates, each from the same gradient and
    the same optimizer state, and judged by the loss of the same batch. The crossing

    .. math:: L(\theta + \Delta(\eta_c)) = L(\theta)

    is first bracketed by factors of two around the step that would bring the linearised loss to zero, then
    narrowed by the root of the parabola through the known value and slope at 0 and the last probe, kept inside
    the bracket. A loss that is not finite counts as raised. On a quadratic loss under gradient descent
    :math:`\eta_c = 2 / (g^T H g / g^T g) \ge 2 / \lambda_{max}`.

    Args:
        objective: The loss; each of its batches gives one reading, so give several for an interval.
        optimizer: A live optimizer over the objective's model (its state is that of the real next step), or a
            spec or name for a fresh one. Ratios between the learning rates of its groups are kept.
        smallest, largest: Learning rates tried at most.
        tol: Relative width of the final bracket.
        max_forwards: Forward passes per batch at most.
        curvature: Also measure what curvature says: threshold/sharpness at the first step.

    Returns:
        :class:`~lrscope.records.CriticalLR`. Cost per batch: one gradient, two updates on copies, and about 6
        forward passes (25 at worst); ``curvature=True`` adds a sharpness solve.

    Raises:
        ValueError: A range or tolerance is out of bounds.
        MeasurementError: The optimizer's next step cannot be tried on a copy.

    References:
        Kalra and Barkeshli, "Why Warmup the Learning Rate?", 2024, arXiv 2406.09405, section 4.2 of our notes on
        the search; Lewkowycz et al., "The large learning rate phase of deep learning", 2020, arXiv 2003.02218.
    """
    _check(smallest, largest, tol, max_forwards)
    live, label = _live(optimizer, objective)
    theta = objective.point()
    readings: list[_Reading] = []
    cost = Cost()
    for part in objective.each() if len(objective.batches) > 1 else [objective]:
        before = part.spent
        loss, grad = part.loss_and_grad(theta)
        if not (math.isfinite(loss) and bool(torch.isfinite(grad).all())):
            readings.append(_Reading(math.nan, math.nan, "loss not finite"))
            continue
        move = NextStep(live, part.model, theta, grad)

        def probe(lr: float, part: Objective = part, move: NextStep = move) -> float:
            return part.loss(theta + move(lr))

        slope = float(grad @ move(1.0)) if move.linear else math.nan
        readings.append(_search(probe, loss, slope, smallest, largest, tol, max_forwards))
        cost += part.spent - before + Cost(updates=move.updates)
    limit, spent = _curvature_limit(objective, live, theta) if curvature else (None, Cost())
    return _combine(readings, label, limit, cost + spent)


class _Reading:
    """One batch's bracket: the loss falls at ``low`` and rises at ``high``; or why there is none."""

    def __init__(self, low: float, high: float, status: str = "found") -> None:
        self.low, self.high, self.status = low, high, status

    @property
    def lr(self) -> float:
        return math.sqrt(self.low * self.high) if self.status == "found" else math.nan


def _search(
    probe: Callable[[float], float],
    loss: float,
    slope: float,
    smallest: float,
    largest: float,
    tol: float,
    max_forwards: int,
) -> _Reading:
    # The step that would bring the linearised loss to zero is of the right order for any scale of loss.
    if slope >= 0:  # momentum carries this batch uphill: every small step raises its loss
        return _Reading(smallest, smallest, "unstable at the smallest")
    lr = min(max(-loss / slope, smallest), largest) if slope < 0 and loss > 0 else min(1.0, largest)
    low, high = 0.0, math.inf
    for _ in range(max_forwards):
        value = probe(lr)
        if math.isfinite(value) and value <= loss:
            low = lr
            if lr >= largest:
                return _Reading(lr, lr, "stable up to the largest")
        else:
            high = lr
            if lr <= smallest:
                return _Reading(lr, lr, "unstable at the smallest")
        if low > 0 and high / low <= 1 + tol:
            break
        lr = _next(lr, value, loss, slope, low, high, tol)
        lr = min(max(lr, smallest), largest)
    if low == 0.0:
        return _Reading(high, high, "unstable at the smallest")
    if math.isinf(high):
        return _Reading(low, low, "stable up to the largest")
    return _Reading(low, high)


def _next(lr: float, value: float, loss: float, slope: float, low: float, high: float, tol: float) -> float:
    """Where to probe next: a root of the parabola through what is known, safeguarded by the bracket."""
    guess = math.nan
    if slope < 0 and math.isfinite(value):
        curvature = (value - loss - slope * lr) / lr**2
        guess = -slope / curvature if curvature > 0 else math.nan
    if low == 0.0:  # only rising probes so far: move down by at least GROW, at most GROW^6
        return max(min(guess, lr / GROW), lr / GROW**6) if guess > 0 else lr / GROW
    if math.isinf(high):
        return min(max(guess, lr * GROW), lr * GROW**2) if guess > 0 else lr * GROW
    if low < guess < high:
        # Step just past the guess, away from the last probe, so that the other end of the bracket closes too.
        nudge = 1 + 0.45 * tol
        guess = guess * nudge if lr == low else guess / nudge
        if low < guess < high and max(guess / low, high / guess) < 0.9 * high / low:
            return guess
    return math.sqrt(low * high)


def _live(
    optimizer: torch.optim.Optimizer | OptimizerSpec | str | Any, objective: Objective
) -> tuple[torch.optim.Optimizer, str]:
    if isinstance(optimizer, torch.optim.Optimizer):
        return optimizer, type(optimizer).__name__
    spec = OptimizerSpec.parse(optimizer)
    return spec.build([p for p in objective.model.parameters() if p.requires_grad], lr=1.0), str(spec)


def _curvature_limit(
    objective: Objective, optimizer: torch.optim.Optimizer, theta: torch.Tensor
) -> tuple[float | None, Cost]:
    """First-step threshold over (preconditioned) sharpness, and what it cost in evaluations of single batches."""
    before = objective.spent
    try:
        threshold = stability_threshold(optimizer, step="first")
    except MeasurementError:  # an update rule whose threshold is not known
        return None, Cost()
    grad = objective.grad(theta)
    if not bool(torch.isfinite(grad).all()):
        return None, Cost()
    top = sharpness(objective, theta, preconditioner=preconditioner(optimizer, objective, grad))
    spent = objective.spent - before
    batches = len(objective.batches)
    scaled = Cost(spent.forwards * batches, spent.gradients * batches, spent.products * batches)
    return (threshold / top.value if top.value > 0 else None), scaled


def _combine(readings: list[_Reading], label: str, limit: float | None, cost: Cost) -> CriticalLR:
    samples = tuple(r.lr for r in readings)
    found = [r for r in readings if r.status == "found"]
    if found and len(found) * 2 >= len(readings):
        lr = math.exp(sum(math.log(r.lr) for r in found) / len(found))
        one = len(found) == 1
        low = found[0].low if one else min(r.lr for r in found)
        high = found[0].high if one else max(r.lr for r in found)
        return CriticalLR(lr, low, high, "found", samples, label, limit, cost)
    odd = next(r for r in readings if r.status != "found")
    return CriticalLR(math.nan, odd.low, odd.high, odd.status, samples, label, limit, cost)  # type: ignore[arg-type]


def _check(smallest: float, largest: float, tol: float, max_forwards: int) -> None:
    if not 0 < smallest < largest < math.inf:
        raise ValueError(f"smallest, largest: expected 0 < smallest < largest, got {smallest!r}, {largest!r}")
    if not 0 < tol < 1:
        raise ValueError(f"tol: expected a relative width between 0 and 1, got {tol!r}")
    if not isinstance(max_forwards, int) or max_forwards < 5:
        raise ValueError(f"max_forwards: expected an integer of 5 or more, got {max_forwards!r}")
