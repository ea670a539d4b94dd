"""The point that is measured at: checked before any work."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrscope.errors import LrscopeError, MeasurementError

if TYPE_CHECKING:
    from lrscope.objective import Objective


def integer(name: str, value: Any, low: int, high: float = float("inf"), hint: str = "") -> int:
    """``value`` if it is an integer, also one of NumPy's, in the range.

    Raises:
        ValueError: What came, and what is allowed.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        allowed = f"of at least {low}" if high == float("inf") else f"from {low} to {high:.0f}"
        raise ValueError(f"{name}: expected an integer {allowed}{hint}, got {value!r}")
    return number


def point_of(objective: Objective, theta: Tensor | None) -> Tensor:
    """``theta``, checked, or the model's current one; ``(P,)``, detached."""
    return objective.point() if theta is None else vector("theta", theta, objective.size).detach()


def vector(name: str, value: Any, size: int, *, columns: bool = False) -> Tensor:
    """``value`` if it is a tensor of shape ``(size,)``, or with ``columns`` also ``(size, K)``.

    Raises:
        TypeError, ValueError: What came, and what is allowed.
    """
    allowed = f"({size},)" + f" or ({size}, K)" * columns
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor of shape {allowed}, got {type(value).__name__}")
    if value.ndim not in ((1, 2) if columns else (1,)) or value.shape[0] != size:
        raise ValueError(f"{name}: expected shape {allowed}, got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise ValueError(f"{name}: expected real floating-point numbers, got {value.dtype}")
    return value


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


_TORCH = (RuntimeError, NotImplementedError, ValueError, IndexError)
"""What torch raises where shapes, labels or devices do not fit."""


def loss_and_grad(objective: Objective, theta: Tensor) -> tuple[float, Tensor]:
    """The objective's own, with torch's errors put in words; cost: one gradient.

    Raises:
        MeasurementError: The loss cannot be computed, has no gradient in theta, or none as one dense vector.
    """
    try:
        return objective.loss_and_grad(theta)
    except LrscopeError:
        raise
    except _TORCH as error:
        forward = _forward_error(objective, theta)
        what = "the loss has no gradient in theta, so neither its curvature nor a step can be measured"
        remedy = ""
        if forward is not None:
            what, remedy = (
                "the loss cannot be computed",
                "; shape, dtype and device of the batches must fit the model",
            )
        elif any(getattr(module, "sparse", False) is True for module in objective.model.modules()):
            remedy = "; the model has an embedding with sparse gradients, build it with sparse=False"
        here = objective.point()
        if (here.dtype, here.device) != (theta.dtype, theta.device):
            remedy = (
                f"; theta is {theta.dtype} on {theta.device}, the model {here.dtype} on {here.device}: convert it"
            )
        raise MeasurementError(f"{what}: {str(forward or error).strip().splitlines()[0]}{remedy}") from error


def _forward_error(objective: Objective, theta: Tensor) -> Exception | None:
    """What the forward pass raises by itself, if it is not the backward pass that does."""
    try:
        with objective.undisturbed(), torch.enable_grad():
            for batch in objective.batches:
                objective.batch_loss(theta.detach().clone().requires_grad_(), batch)
    except _TORCH as error:
        return error
    return None
