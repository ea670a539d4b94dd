"""Sharpness: the largest eigenvalues of the Hessian of the training loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrscope.curvature.measurement import Measuring
from lrscope.curvature.operators import LinearOperator
from lrscope.curvature.point import integer, loss_and_grad, point_of, vector
from lrscope.curvature.precondition import is_adaptive
from lrscope.curvature.precondition import preconditioner as preconditioner_of
from lrscope.curvature.probe import Method
from lrscope.curvature.result import EigenResult
from lrscope.linalg import lanczos
from lrscope.objective import require_objective

if TYPE_CHECKING:
    from lrscope.objective import Objective

GUARD = 3
"""Least number of products spent on a random vector, so that a start given by the caller hides nothing larger."""
RISK = 1e-2
"""Accepted probability that a random start hides a larger eigenvalue: two to six products more than accepting any. It
is a bound; of 2,400 solves none was wrong, and none either at five times this risk."""
BASIS_BYTES = 2**30
"""What the basis of a solve may occupy before it is restarted, where that is more than a dozen vectors."""


def sharpness(
    target: Objective | LinearOperator,
    theta: Tensor | None = None,
    *,
    count: int = 1,
    preconditioner: Tensor | None = None,
    tol: float = 1e-2,
    start: Tensor | None = None,
    method: Method = "auto",
    risk: float = RISK,
    max_matvecs: int = 200,
    max_basis: int | None = None,
    seed: int = 0,
) -> EigenResult:
    r"""The ``count`` largest eigenvalues of the Hessian of the loss at theta, or of an operator.

    .. math:: \lambda_1 = \lambda_{max}(\nabla^2 L(\theta)), \quad\text{or with a preconditioner}\quad
              \lambda_{max}(P^{-1/2} \, \nabla^2 L(\theta) \, P^{-1/2})

    The second matrix is symmetric and has the eigenvalues of :math:`P^{-1} H`, the preconditioned sharpness.

    The model is left untouched: parameters, buffers, modes, ``.grad`` and random states.

    Args:
        target: The loss; the answer belongs to its batches. Or an operator such as ``GaussNewton(objective)``.
        theta: Where, shape ``(P,)``; the model's current parameters by default.
        count: Number of eigenvalues, 1 ... P.
        preconditioner: Positive diagonal of P, shape ``(P,)``; see :func:`preconditioner`. ``inf`` marks
            parameters that the optimizer does not move.
        tol: Stop when ``||A v - value v|| <= tol * |value|`` for each pair. The error of the value is of the
            order of the residual's square over the gap.
        start: First guess ``(P,)`` or ``(P, M)``, for example an earlier ``vectors``. It saves products where it is
            good; a random vector joins it (at least three products) in case that it hides a larger eigenvalue.
            By default a random vector; the solve then goes on until a larger eigenvalue is hidden from it with a
            probability of at most ``risk``. For more eigenvalues, as many random vectors and another one that looks
            for what they miss: a single one sees only one of several equal eigenvalues.
        method: ``"exact"``, ``"forward"``, ``"difference"`` or ``"auto"``; see
            :func:`~lrscope.curvature.probe.choose`.
        risk: Between 0 and 1; for one eigenvalue from a random start. A bound, reported as reached in the result.
        max_matvecs: Products at most; if they do not suffice the result says ``converged=False``.
        max_basis: Vectors of length P kept at most, ``count + 2`` or more; the solve is restarted with the best of
            them. By default what fits into 1 GiB, but at least 12. With 8 a solve takes up to 3 % more products than
            with 200; with 4 up to 20 %, in six vectors of memory.
        seed: Of the random vectors; the global generators are not used.

    Returns:
        :class:`EigenResult`. Cost: two gradients (one checks the point), then typically 8 to 20 products of
        1.5 to 2.5 gradients; the first call on an objective spends three or four more products on the probe.
        Memory: a vector of length P per product, up to ``max_basis``, and two more.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        MeasurementError: Loss or gradient is not finite at theta, or no product can be computed on this model.

    References:
        Kalra & Barkeshli, Why Warmup the Learning Rate?, 2024, arXiv 2406.09405, for both quantities.
    """
    if not hasattr(target, "__matmul__"):
        require_objective(target)
    size = target.size
    count = integer("count", count, 1, size, " (the number of parameters)")
    max_matvecs = integer("max_matvecs", max_matvecs, 1)
    if not isinstance(tol, (int, float)) or not (tol > 0 and tol < float("inf")):
        raise ValueError(f"tol: expected a positive relative residual such as 1e-2, got {tol!r}")
    if not (isinstance(risk, (int, float)) and 0 < risk < 1):
        raise ValueError(f"risk: expected a probability between 0 and 1, got {risk!r}")
    if max_basis is not None and (not isinstance(max_basis, int) or max_basis < min(size, count + 2)):
        raise ValueError(f"max_basis: expected at least count + 2 = {count + 2} vectors or None, got {max_basis!r}")
    if start is not None:
        _check_start(start, size)
    at = Measuring(target, theta, preconditioner=preconditioner, method=method)
    alone = start is None and count == 1
    pairs = lanczos(
        at.matvec,
        at.random(seed, count) if start is None else start.detach().to(at.like),
        count=count,
        tol=tol,
        max_matvecs=max_matvecs,
        max_basis=max_basis or _basis(at.like, count),
        guard=0 if alone else GUARD,
        risk=risk if alone else None,
        generator=at.generator(seed + 1),
    )
    return EigenResult.of(pairs, preconditioned=preconditioner is not None, **at.account())


def preconditioned_sharpness(
    objective: Objective, optimizer: torch.optim.Optimizer, theta: Tensor | None = None, **options: Any
) -> EigenResult:
    """The sharpness as the optimizer's coming step feels it: the largest eigenvalue of ``P^-1 H``.

    ``reference_lr(optimizer) * value / stability_threshold(optimizer)`` is the headroom of that step. For SGD
    with one learning rate P is 1 and this is the sharpness.

    Args:
        objective: The loss.
        optimizer: The live optimizer over the objective's model; P is read from its state, as
            :func:`~lrscope.curvature.preconditioner` says.
        theta: Where, ``(P,)``; the model's current parameters by default. P belongs to the gradient there.
        options: As for :func:`sharpness`: ``count``, ``tol``, ``start``, ``method``, ``risk``,
            ``max_matvecs``, ``max_basis``, ``seed``.

    Returns:
        :class:`EigenResult`. Cost: that of :func:`sharpness`, and one gradient for an adaptive optimizer.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        MeasurementError: As :func:`sharpness` and :func:`~lrscope.curvature.preconditioner`.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> L = lrs.Objective(net, lambda m, x: 3 * m(x).square().mean(), [torch.ones(1, 1)])
        >>> adam = torch.optim.Adam(net.parameters(), lr=1e-3)
        >>> w, P = net.weight.item(), 0.1 * abs(6 * net.weight.item())  # first step: (1 - beta1) |g|
        >>> abs(preconditioned_sharpness(L, adam).value / (6 / P) - 1) < 1e-4
        True
    """
    require_objective(objective)
    spent = objective.spent
    theta = point_of(objective, theta)
    P = preconditioner_of(
        optimizer, objective, loss_and_grad(objective, theta)[1] if is_adaptive(optimizer) else None
    )
    for_P = objective.spent - spent
    found = sharpness(objective, theta, preconditioner=P, **options)
    return replace(found, cost=found.cost + for_P)


def _check_start(start: Tensor, size: int) -> None:
    vector("start", start, size, columns=True)
    if not bool(torch.isfinite(start).all()) or not bool(start.any()):
        raise ValueError("start: expected finite numbers, not all zero")


def _basis(like: Tensor, count: int) -> int:
    """Vectors before a restart: restarts cost products, so as many as memory allows."""
    return max(12, 3 * count, min(200, BASIS_BYTES // (like.numel() * like.element_size())))
