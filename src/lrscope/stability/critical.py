"""The critical learning rate by the loss catapult: no second derivatives, a handful of forward passes."""

from __future__ import annotations

import inspect
import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrscope.curvature import preconditioner, sharpness, stability_threshold
from lrscope.errors import MeasurementError
from lrscope.objective import Objective, require_objective
from lrscope.optimizers import OptimizerSpec
from lrscope.records import Cost, CriticalLR
from lrscope.stability.built_up import built_up
from lrscope.stability.crossing import Crossing, Search

_LONG = 100_000
"""Updates after which no more momentum builds up."""


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

    is first bracketed around the step that would bring the linearised loss to zero, then narrowed by interpolation of
    the rise per unit of learning rate, which is a straight line for a parabola, kept inside the bracket. A loss
    that is not finite counts as raised. On a quadratic loss under gradient descent
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
        :class:`~lrscope.records.CriticalLR`. Cost per batch: one gradient, two updates on copies, and about 7
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
    search = Search(smallest, largest, tol, max_forwards)
    began = time.perf_counter()
    live, label = live_optimizer(optimizer, objective)
    theta = objective.point()
    readings: list[Crossing] = []
    cost = Cost()
    for part in objective.each() if len(objective.batches) > 1 else [objective]:
        found, spent = search.step(part, live, theta)
        readings.append(found)
        cost += spent
    limit, spent = _curvature_limit(objective, live, theta) if curvature else (None, Cost())
    cost = replace(cost + spent, seconds=time.perf_counter() - began)
    # A state that has built up is that of the step which was tried.
    return replace(_combine(readings, label, limit, cost), growth=1 / built_up(live, step=_LONG))


def live_optimizer(
    optimizer: torch.optim.Optimizer | OptimizerSpec | str | Any, objective: Objective
) -> tuple[torch.optim.Optimizer, str]:
    """The optimizer itself, or a fresh one by spec or name over the objective's model; and how to call it."""
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


def _combine(readings: list[Crossing], label: str, limit: float | None, cost: Cost) -> CriticalLR:
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
