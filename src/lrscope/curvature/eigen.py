"""Sharpness: the largest eigenvalues of the Hessian of the training loss."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrscope.curvature.hvp import Hessian
from lrscope.curvature.probe import Method, choose
from lrscope.curvature.result import EigenResult
from lrscope.errors import MeasurementError
from lrscope.linalg import lanczos, working_dtype
from lrscope.objective import require_objective

if TYPE_CHECKING:
    from lrscope.objective import Objective

GUARD = 3
"""Least number of products spent on a random vector, so that a start given by the caller hides nothing larger."""


def sharpness(
    objective: Objective,
    theta: Tensor | None = None,
    *,
    count: int = 1,
    preconditioner: Tensor | None = None,
    tol: float = 1e-2,
    start: Tensor | None = None,
    method: Method = "auto",
    max_matvecs: int = 200,
    seed: int = 0,
) -> EigenResult:
    r"""The ``count`` largest eigenvalues of the Hessian of the loss at theta.

    .. math:: \lambda_1 = \lambda_{max}(\nabla^2 L(\theta)), \quad\text{or with a preconditioner}\quad
              \lambda_{max}(P^{-1/2} \, \nabla^2 L(\theta) \, P^{-1/2})

    The second matrix is symmetric and has the eigenvalues of :math:`P^{-1} H`, the preconditioned sharpness.

    The model is left untouched: parameters, buffers, modes, ``.grad`` and random states.

    Args:
        objective: The loss; the answer belongs to its batches.
        theta: Where, shape ``(P,)``; the model's current parameters by default.
        count: Number of eigenvalues, 1 ... P.
        preconditioner: Positive diagonal of P, shape ``(P,)``; see :func:`preconditioner`. ``inf`` marks
            parameters that the optimizer does not move.
        tol: Stop when ``||A v - value v|| <= tol * |value|`` for each pair. The error of the value is of the
            order of the residual's square over the gap.
        start: First guess ``(P,)`` or ``(P, M)``, for example an earlier ``vectors``. It saves products where it is
            good; a random vector joins it (at least three products) in case that it hides a larger eigenvalue.
            By default a random vector.
        method: ``"exact"``, ``"forward"``, ``"difference"`` or ``"auto"``; see
            :func:`~lrscope.curvature.probe.choose`.
        max_matvecs: Products at most; if they do not suffice the result says ``converged=False``.
        seed: Of the random vectors; the global generators are not used.

    Returns:
        :class:`EigenResult`. Cost: two gradients (one checks the point), then typically 6 to 20 products of
        1.5 to 2.5 gradients; the first call on an objective spends three or four more products on the probe.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        MeasurementError: Loss or gradient is not finite at theta, or no product can be computed on this model.

    References:
        Kalra & Barkeshli, Why Warmup the Learning Rate?, 2024, arXiv 2406.09405, for both quantities.
    """
    require_objective(objective)
    began, spent = time.perf_counter(), objective.spent
    theta = objective.point() if theta is None else theta.detach()
    size = objective.size
    if theta.shape != (size,):
        raise ValueError(f"theta: expected shape ({size},), got {tuple(theta.shape)}")
    if not isinstance(count, int) or not 1 <= count <= size:
        raise ValueError(f"count: expected an integer from 1 to {size} (the number of parameters), got {count!r}")
    if not (tol > 0 and tol < float("inf")):
        raise ValueError(f"tol: expected a positive relative residual such as 1e-2, got {tol!r}")
    if max_matvecs < 1:
        raise ValueError(f"max_matvecs: expected at least 1, got {max_matvecs!r}")
    scale = scale_of(preconditioner, theta)
    begin = _start(start, theta, seed)
    require_finite(objective, theta)
    choice = choose(objective, theta, method=method, purpose="solve", tol=tol)
    H = choice.at(objective, theta)
    pairs = lanczos(
        preconditioned(H, scale),
        begin,
        count=count,
        tol=tol,
        max_matvecs=max_matvecs,
        guard=GUARD if start is not None else 0,
        generator=torch.Generator(device=theta.device).manual_seed(seed + 1),
    )
    seconds = time.perf_counter() - began
    cost = replace(objective.spent - spent, seconds=seconds)
    return EigenResult.of(pairs, choice, cost, preconditioned=preconditioner is not None)


def scale_of(preconditioner: Tensor | None, theta: Tensor) -> Tensor | None:
    """P^-1/2, shape ``(P,)``, after a check of P."""
    if preconditioner is None:
        return None
    if preconditioner.shape != theta.shape:
        raise ValueError(
            f"preconditioner: expected the diagonal of P, shape {tuple(theta.shape)}, "
            f"got {tuple(preconditioner.shape)}"
        )
    if not bool((preconditioner > 0).all()):  # false for nan, too
        raise ValueError(
            f"preconditioner: expected positive numbers, smallest is {float(preconditioner.min()):.3g}; "
            "for Adam add eps"
        )
    return preconditioner.to(theta).rsqrt()


def preconditioned(H: Hessian, scale: Tensor | None):
    """The matrix-vector product of ``S H S`` with S the diagonal ``scale``; of H if there is none.

    The product is of the vector's dtype, which is wider than the model's where that is a half precision.
    """
    if scale is None:
        return lambda v: (H @ v).to(v)
    return lambda v: (scale * (H @ (scale * v))).to(v)


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


def _start(start: Tensor | None, theta: Tensor, seed: int) -> Tensor:
    if start is None:
        generator = torch.Generator(device=theta.device).manual_seed(seed)
        dtype = working_dtype(theta.dtype)
        return torch.randn(theta.shape, dtype=dtype, device=theta.device, generator=generator)
    if start.ndim not in (1, 2) or start.shape[0] != theta.numel():
        raise ValueError(
            f"start: expected shape ({theta.numel()},) or ({theta.numel()}, M), got {tuple(start.shape)}"
        )
    if not bool(torch.isfinite(start).all()) or not bool(start.any()):
        raise ValueError("start: expected finite numbers, not all zero")
    return start.detach().to(theta.device, working_dtype(theta.dtype))
