"""Critical sharpness: the curvature that the coming step feels, from a handful of forward passes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch

from lrscope.curvature import Measurement
from lrscope.curvature.measurement import describe
from lrscope.objective import Objective, require_objective
from lrscope.optimizers import OptimizerSpec
from lrscope.records.critical import CriticalStatus
from lrscope.stability.critical import live_optimizer
from lrscope.stability.crossing import Search


@dataclass(frozen=True, eq=False, kw_only=True)
class CriticalSharpness(Measurement):
    """Curvature of the loss along the coming step, by the loss alone.

    See :class:`~lrscope.curvature.measurement.Measurement` for the rest; the method is ``"forward passes"``.

    Attributes:
        value: ``2 / lr``; ``nan`` unless the status is ``found``.
        low, high: The true value lies between them.
        lr: The largest learning rate whose step does not raise the loss.
        forwards: Forward passes spent.
        status: ``found``, or why there is no number.
        optimizer: The update rule that was stepped.
    """

    value: float
    low: float
    high: float
    lr: float
    forwards: int
    status: CriticalStatus
    optimizer: str

    def __str__(self) -> str:
        if self.status != "found":
            return f"no critical sharpness: {self.status} ({self.optimizer})"
        return (
            f"critical sharpness {self.value:.4g} (between {self.low:.4g} and {self.high:.4g}), "
            f"{self.forwards} forward passes: the coming step of {self.optimizer} lowers the loss up to learning "
            f"rate {self.lr:.3g}"
        )


def critical_sharpness(
    objective: Objective,
    optimizer: torch.optim.Optimizer | OptimizerSpec | str = "sgd(momentum=0)",
    *,
    start: float | None = None,
    tol: float = 0.1,
    max_forwards: int = 9,
) -> CriticalSharpness:
    r"""Twice the inverse of the smallest learning rate at which the coming step raises the loss.

    .. math:: \lambda_c = 2 / \eta_c, \qquad \eta_c = \min \{ \eta > 0 : L(\theta + \Delta(\eta)) > L(\theta) \}

    No second derivatives and no solver, so it costs a few forward passes on any model that trains, at any size. On a
    quadratic it is the curvature along the step, hence at most the (preconditioned) sharpness, and near it once the
    sharpest direction dominates the step. ``learning rate * value / 2`` is the share of the stable step in use.

    Args:
        objective: The loss, of all its batches together.
        optimizer: A live optimizer, whose state is that of its real next step, or a spec or name for a fresh one.
        start: First learning rate tried; the ``lr`` of the last answer saves passes while training.
        tol: Relative width of the bracket.
        max_forwards: Forward passes at most, 5 or more; the bracket is wider where they do not suffice.

    Returns:
        :class:`CriticalSharpness`. Cost: one gradient, two optimizer updates on copies, and typically 4 to 7 forward
        passes.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        MeasurementError: The loss has no gradient, or the optimizer's next step cannot be tried on a copy.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> L = lrs.Objective(net, lambda m, x: 3 * m(x).square().mean(), [torch.ones(1, 1)])
        >>> found = critical_sharpness(L)  # L'' = 6
        >>> found.low <= 6.001 and 5.999 <= found.high
        True

    References:
        arXiv 2601.16979, 2026, where it follows the sharpness of language models of up to 7B parameters.
    """
    require_objective(objective)
    search = Search(tol=tol, max_forwards=max_forwards, start=start)
    began = time.perf_counter()
    live, label = live_optimizer(optimizer, objective)
    found, cost = search.step(objective, live, objective.point())
    return CriticalSharpness(
        value=2 / found.lr if found.status == "found" else math.nan,
        low=2 / found.high if found.status == "found" else math.nan,
        high=2 / found.low if found.status == "found" else math.nan,
        lr=found.lr,
        forwards=int(cost.forwards),
        status=found.status,
        optimizer=label,
        method="forward passes",
        error=math.nan,
        cost=replace(cost, seconds=time.perf_counter() - began),
        batches=describe(objective),
    )
