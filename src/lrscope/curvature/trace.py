"""The trace of the Hessian: the sum of all eigenvalues, with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lrscope.curvature.measurement import Measurement, Measuring
from lrscope.curvature.operators import LinearOperator
from lrscope.curvature.point import integer
from lrscope.curvature.probe import Method
from lrscope.linalg import hutch_pp, hutchinson, xtrace

if TYPE_CHECKING:
    from lrscope.objective import Objective

Estimator = Literal["xtrace", "hutch++", "hutchinson"]
ESTIMATORS = {"xtrace": xtrace, "hutch++": hutch_pp, "hutchinson": hutchinson}


@dataclass(frozen=True, eq=False, kw_only=True)
class TraceResult(Measurement):
    """A trace; see :class:`~lrscope.curvature.measurement.Measurement` for the rest.

    Attributes:
        value: The estimate.
        stderr: Its standard error over random vectors; 0 where it is exact.
        num_matvecs: Products spent on it.
        size: P; ``value / size`` is the mean eigenvalue.
        estimator: Which one; ``"exact"`` for a product with every coordinate, where P is no more than were allowed.
    """

    value: float
    stderr: float
    num_matvecs: int
    size: int
    estimator: str

    def __str__(self) -> str:
        estimate = f"trace {self.value:.5g} +- {self.stderr:.1g} (standard error)"
        return f"{estimate}, {self.num_matvecs} products, {self.method}"


def trace(
    target: Objective | LinearOperator,
    theta: Tensor | None = None,
    *,
    preconditioner: Tensor | None = None,
    estimator: Estimator = "xtrace",
    num_matvecs: int = 30,
    method: Method = "auto",
    seed: int = 0,
) -> TraceResult:
    r"""The trace of the Hessian of the loss at theta, or of an operator.

    How strongly the loss bends on average over directions: for steps of random direction and length r the
    loss rises by :math:`r^2 \operatorname{tr} H / 2P`.

    Args:
        target: An objective, or an operator such as ``GaussNewton(objective)``.
        theta: Where, ``(P,)``; the model's current parameters by default.
        preconditioner: Positive diagonal of P, ``(P,)``: the trace of ``P^-1/2 H P^-1/2``.
        estimator: ``"xtrace"`` (most accurate; keeps ``num_matvecs`` vectors), ``"hutch++"`` (a third of them) or
            ``"hutchinson"`` (none; best without dominant eigenvalues); see :mod:`lrscope.linalg`.
        num_matvecs: Products to spend; if P is no more, the trace is exact for P products.
        method: How products are made; see :func:`~lrscope.curvature.probe.choose`.
        seed: Of the random vectors; the global generators are not used.

    Returns:
        :class:`TraceResult`. Cost: ``num_matvecs`` products, one gradient, and the probe of a new objective.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        MeasurementError: Loss or gradient is not finite at theta, or no product can be computed on this model.

    Example:
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> L = lrs.Objective(model, lambda m, x: m(x).square().mean(), [torch.eye(3)])
        >>> round(trace(L).value, 4)  # H = 2 X'X / 3
        2.0
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator: expected 'xtrace', 'hutch++' or 'hutchinson', got {estimator!r}")
    num_matvecs = integer("num_matvecs", num_matvecs, 6, hint=", so that an error can be told")
    at = Measuring(target, theta, preconditioner=preconditioner, method=method)
    if num_matvecs >= at.size:  # near P products the estimators understate their errors, and P are enough
        value = math.fsum(float(at.matvec(_unit(at.like, i))[i]) for i in range(at.size))
        return TraceResult(
            value=value, stderr=0.0, num_matvecs=at.size, size=at.size, estimator="exact", **at.account()
        )
    found = ESTIMATORS[estimator](at.matvec, at.like, num_matvecs=num_matvecs, generator=at.generator(seed))
    return TraceResult(
        value=found.value,
        stderr=found.stderr,
        num_matvecs=found.num_matvecs,
        size=at.size,
        estimator=estimator,
        **at.account(),
    )


def _unit(like: Tensor, i: int) -> Tensor:
    unit = torch.zeros_like(like)
    unit[i] = 1
    return unit
