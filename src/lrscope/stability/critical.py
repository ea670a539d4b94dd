"""The critical learning rate by the loss catapult: no second derivatives, a handful of forward passes."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrscope.curvature import preconditioner, sharpness, stability_threshold
from lrscope.curvature.point import loss_and_grad
from lrscope.errors import MeasurementError
from lrscope.objective import Objective, require_objective
from lrscope.optimizers import OptimizerSpec
from lrscope.optimizers.clone import NextStep
from lrscope.records import Cost, CriticalLR
from lrscope.records.critical import CriticalStatus

GROW = 2.0
"""Factor between probes while looking for a bracket (Kalra & Barkeshli 2024: k = 2)."""


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
            spec or name for a fresh one. Ratios between the learning rates of its groups are kept; while a
            schedule holds all of them at 0, those of their base rates.
        smallest, largest: Learning rates tried at most.
        tol: Relative width of the final bracket.
        max_forwards: Forward passes per batch at most.
        curvature: Also measure what curvature says: threshold/sharpness at the first step.

    Returns:
        :class:`~lrscope.records.CriticalLR`. Cost per batch: one gradient, two updates on copies, and about 6
        forward passes (25 at worst); ``curvature=True`` adds a sharpness solve.

    Raises:
        TypeError: ``objective`` or ``optimizer`` is something else.
        ValueError: A range or tolerance is out of bounds.
        MeasurementError: The loss has no gradient, or the optimizer's next step cannot be tried on a copy.

    References:
        Kalra and Barkeshli, "Why Warmup the Learning Rate?", 2024, arXiv 2406.09405 (the search by doubling and
        bisection); Lewkowycz et al., "The large learning rate phase of deep learning", 2020, arXiv 2003.02218.
    """
    require_objective(objective)
    _check(smallest, largest, tol, max_forwards)
    began = time.perf_counter()
    live, label = _live(optimizer, objective)
    theta = objective.point()
    readings: list[_Reading] = []
    cost = Cost()
    for part in objective.each() if len(objective.batches) > 1 else [objective]:
        before = part.spent
        loss, grad = loss_and_grad(part, theta)
        why = _no_reading(loss, grad)
        if why is not None:
            readings.append(_Reading(math.nan, math.nan, why))
            cost += part.spent - before
            continue
        move = NextStep(live, part.model, theta, grad)

        def probe(lr: float, part: Objective = part, move: NextStep = move) -> float:
            return part.loss(theta + move(lr))

        slope = float(grad @ move(1.0)) if move.linear else math.nan
        readings.append(_search(probe, loss, slope, smallest, largest, tol, max_forwards))
        cost += part.spent - before + Cost(updates=move.updates)
    limit, spent = _curvature_limit(objective, live, theta) if curvature else (None, Cost())
    cost = replace(cost + spent, seconds=time.perf_counter() - began)
    return _combine(readings, label, limit, cost)


class _Reading:
    """One batch's bracket: the loss falls at ``low`` and rises at ``high``; or why there is none."""

    def __init__(self, low: float, high: float, status: CriticalStatus = "found") -> None:
        self.low, self.high = low, high
        self.status: CriticalStatus = status

    @property
    def lr(self) -> float:
        return math.sqrt(self.low * self.high) if self.status == "found" else math.nan


def _no_reading(loss: float, grad: Tensor) -> CriticalStatus | None:
    """Why no step can be judged from here."""
    if not (math.isfinite(loss) and bool(torch.isfinite(grad).all())):
        return "loss not finite"
    return None if bool(grad.any()) else "zero gradient"


def _search(
    probe: Callable[[float], float],
    loss: float,
    slope: float,
    smallest: float,
    largest: float,
    tol: float,
    max_forwards: int,
) -> _Reading:
    if slope > 0:  # every small step raises the loss
        return _Reading(math.nan, math.nan, "momentum points uphill")
    # The step that would bring the linearised loss to zero is of the right order for any scale of loss.
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
        return optimizer, _label(optimizer)
    spec = OptimizerSpec.parse(optimizer)
    return spec.build([p for p in objective.model.parameters() if p.requires_grad], lr=1.0), str(spec)


def _label(optimizer: torch.optim.Optimizer) -> str:
    """Name and the settings that differ from the class's defaults, such as ``SGD(momentum=0.9)``."""
    shown = []
    for name, parameter in inspect.signature(type(optimizer)).parameters.items():
        values = [group[name] for group in optimizer.param_groups if name in group]
        if name not in _UNSAID and any(value != parameter.default for value in values):
            shown.append(f"{name}={' or '.join(dict.fromkeys(map(_short, values)))}")
    return f"{type(optimizer).__name__}({', '.join(shown)})" if shown else type(optimizer).__name__


_UNSAID = {"params", "lr", "foreach", "fused", "capturable", "differentiable"}
"""Not part of the update rule: what is searched for, and how the same numbers are computed."""


def _short(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_short, value))})"
    return f"{float(value):g}" if isinstance(value, (float, Tensor)) else str(value)


def _curvature_limit(
    objective: Objective, optimizer: torch.optim.Optimizer, theta: Tensor
) -> tuple[float | None, Cost]:
    """First-step threshold over (preconditioned) sharpness, and what it cost in evaluations of single batches."""
    before = objective.spent
    try:
        threshold = stability_threshold(optimizer, step="first")
    except MeasurementError:  # an update rule whose threshold is not known
        return None, Cost()
    grad, limit = objective.grad(theta), None
    if bool(torch.isfinite(grad).all()):
        top = sharpness(objective, theta, preconditioner=preconditioner(optimizer, objective, grad))
        limit = threshold / top.value if top.value > 0 else None
    spent = objective.spent - before
    batches = len(objective.batches)
    return limit, Cost(spent.forwards * batches, spent.gradients * batches, spent.products * batches)


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
    return CriticalLR(math.nan, odd.low, odd.high, odd.status, samples, label, limit, cost)


def _check(smallest: float, largest: float, tol: float, max_forwards: int) -> None:
    if not 0 < smallest < largest < math.inf:
        raise ValueError(f"smallest, largest: expected 0 < smallest < largest, got {smallest!r}, {largest!r}")
    if not 0 < tol < 1:
        raise ValueError(f"tol: expected a relative width between 0 and 1, got {tol!r}")
    if not isinstance(max_forwards, int) or max_forwards < 5:
        raise ValueError(f"max_forwards: expected an integer of 5 or more, got {max_forwards!r}")
