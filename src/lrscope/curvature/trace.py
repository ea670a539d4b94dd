"""The trace of the Hessian: the sum of all eigenvalues, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from lrscope.curvature.measurement import Measurement, Measuring
from lrscope.curvature.operators import LinearOperator
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
        estimator: Which one.
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
        num_matvecs: Products to spend.
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
    if num_matvecs < 6:
        raise ValueError(f"num_matvecs: expected at least 6, so that an error can be told, got {num_matvecs!r}")
    at = Measuring(target, theta, preconditioner=preconditioner, method=method)
    found = ESTIMATORS[estimator](at.matvec, at.like, num_matvecs=num_matvecs, generator=at.generator(seed))
    return TraceResult(
        value=found.value,
        stderr=found.stderr,
        num_matvecs=found.num_matvecs,
        size=at.size,
        estimator=estimator,
        **at.account(),
    )
