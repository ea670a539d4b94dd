"""Curvature along one direction: the gradient, the step, any vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lrscope.curvature.measurement import Measurement, Measuring
from lrscope.curvature.point import vector
from lrscope.curvature.probe import Method
from lrscope.errors import MeasurementError
from lrscope.objective import require_objective

if TYPE_CHECKING:
    from lrscope.objective import Objective


@dataclass(frozen=True, eq=False, kw_only=True)
class DirectionalCurvature(Measurement):
    """Curvature along a direction; see :class:`~lrscope.curvature.measurement.Measurement` for the rest.

    Attributes:
        value: The second derivative of the loss per squared unit of the direction.
        residual: ``||H v - value v|| / ||v||``: 0 for an eigenvector; an eigenvalue lies within it of the value.
        slope: The first derivative per unit of the direction.
        num_matvecs: Products spent: 1.
    """

    value: float
    residual: float
    slope: float
    num_matvecs: int = 1

    def __str__(self) -> str:
        return f"curvature {self.value:.5g} along the direction, slope {self.slope:.4g}, 1 product, {self.method}"


def directional(
    objective: Objective,
    direction: Tensor | Literal["gradient"] = "gradient",
    theta: Tensor | None = None,
    *,
    preconditioner: Tensor | None = None,
    method: Method = "auto",
) -> DirectionalCurvature:
    r"""Curvature of the loss along a direction v.

    .. math:: \kappa(v) = \frac{v^T H v}{v^T v}, \quad\text{or with a preconditioner}\quad
              \frac{v^T H v}{v^T P v}

    Along the step of the optimizer, the gradient g or :math:`P^{-1} g`, it says what that one step does to second
    order: a learning rate of :math:`1 / \kappa` reaches the bottom, one of :math:`2 / \kappa` comes out at the loss
    it started from. It never exceeds the (preconditioned) sharpness.

    Args:
        objective: The loss.
        direction: v, ``(P,)``, of any length; ``"gradient"``: that of the objective at theta, divided by P if there
            is one.
        theta: Where, ``(P,)``; the model's current parameters by default.
        preconditioner: Positive diagonal of P, ``(P,)``; see :func:`~lrscope.curvature.preconditioner`.
        method: How the product is made; see :func:`~lrscope.curvature.probe.choose`.

    Returns:
        :class:`DirectionalCurvature`. Cost: one gradient and one product, and the probe of a new objective.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        MeasurementError: The gradient is zero, so it has no direction; loss or gradient is not finite; or no product
            can be computed on this model.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> L = lrs.Objective(model, lambda m, x: 3 * m(x).square().mean(), [torch.ones(1, 1)])
        >>> round(directional(L).value, 4)
        6.0
    """
    if isinstance(direction, str) and direction != "gradient":
        raise ValueError(f"direction: expected 'gradient' or a vector, got {direction!r}")
    require_objective(objective)
    if not isinstance(direction, str):
        vector("direction", direction, objective.size)
    at = Measuring(objective, theta, preconditioner=preconditioner, method=method)
    if isinstance(direction, Tensor):
        u = direction.detach().to(at.like)
        if at.scale is not None:
            u = torch.where(u == 0, u, u / at.scale)
        if not bool(torch.isfinite(u).all()) or not bool(u.any()):
            raise ValueError("direction: expected finite numbers, not all zero (and zero where P is inf)")
    else:
        # In the coordinates P^1/2 theta, where P is 1, the step P^-1 g is P^-1/2 g.
        u = at.gradient.to(at.like)
        u = u if at.scale is None else at.scale * u
        if not bool(u.any()):
            raise MeasurementError("direction: the gradient is zero at theta, so it has no direction; give a vector")
    slope = at.gradient.to(u) if at.scale is None else at.scale * at.gradient.to(u)
    u = u / u.norm()
    image = at.matvec(u)
    value = u @ image
    return DirectionalCurvature(
        value=float(value),
        residual=float((image - value * u).norm()),
        slope=float(slope @ u),
        **at.account(),
    )
