"""The point that is measured at: checked before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrscope.errors import MeasurementError

if TYPE_CHECKING:
    from lrscope.objective import Objective


def point_of(objective: Objective, theta: Tensor | None) -> Tensor:
    """``theta``, checked, or the model's current one; ``(P,)``, detached."""
    if theta is None:
        return objective.point()
    if theta.shape != (objective.size,):
        raise ValueError(f"theta: expected shape ({objective.size},), got {tuple(theta.shape)}")
    return theta.detach()


def require_finite(objective: Objective, theta: Tensor) -> Tensor:
    """The gradient at theta, shape ``(P,)``; cost: one gradient.

    Raises:
        MeasurementError: theta, loss or gradient is not finite, or there is no gradient.
    """
    if not bool(torch.isfinite(theta).all()):
        raise MeasurementError(
            f"theta: {int((~torch.isfinite(theta)).sum())} of {theta.numel()} parameters are nan or inf, so there is "
            "no curvature to measure; the run has diverged"
        )
    loss, grad = loss_and_grad(objective, theta)
    if loss != loss or abs(loss) == float("inf"):
        raise MeasurementError(f"the loss is {loss} at theta, so there is no curvature to measure there")
    if not bool(torch.isfinite(grad).all()):
        raise MeasurementError(
            f"the gradient has {int((~torch.isfinite(grad)).sum())} nan or inf entries at theta though the loss is "
            f"{loss:.4g}; look for a sqrt, norm or log at 0 in the model"
        )
    return grad


def loss_and_grad(objective: Objective, theta: Tensor) -> tuple[float, Tensor]:
    """The objective's own, with torch's errors put in words; cost: one gradient.

    Raises:
        MeasurementError: The loss has no gradient in theta, or none as one dense vector.
    """
    try:
        return objective.loss_and_grad(theta)
    except (RuntimeError, NotImplementedError) as error:
        if any(getattr(module, "sparse", False) is True for module in objective.model.modules()):
            remedy = "; the model has an embedding with sparse gradients, build it with sparse=False"
        else:
            remedy = ""
        raise MeasurementError(
            "the loss has no gradient in theta, so neither its curvature nor a step can be measured: "
            f"{str(error).strip().splitlines()[0]}{remedy}"
        ) from error
