"""Power iteration: the readable reference for the largest eigenvalue."""

from __future__ import annotations

import torch
from torch import Tensor

from lrscope.linalg.pairs import EigenPairs, Inner, Matvec, dot, lengths, without_autocast


@without_autocast
def power_iteration(
    matvec: Matvec,
    start: Tensor,
    *,
    tol: float = 1e-2,
    max_matvecs: int = 1000,
    shift: float = 0.0,
    inner: Inner = dot,
) -> EigenPairs:
    r"""The eigenvalue of A that is largest in magnitude after adding ``shift`` to all of them.

    .. math:: v \leftarrow (A + s I) v / \|(A + s I) v\|, \qquad \lambda = v^T A v

    With :math:`s \ge -\lambda_{min}` the answer is the largest eigenvalue. Convergence is linear with ratio
    :math:`|\lambda_2 + s| / |\lambda_1 + s|`; :func:`~lrscope.linalg.lanczos` needs far fewer products.

    Args:
        matvec: Symmetric A as a function ``(P,) -> (P,)``.
        start: Any vector not orthogonal to the eigenvector, shape ``(P,)``.
        tol: Stop when the residual ``||A v - value v||`` is at most ``tol * |value|``.
        max_matvecs: Products at most.
        shift: s.
        inner: Inner products of rows; for vectors cut into shards, the sum over the processes.

    Returns:
        One pair; cost: one product per iteration.
    """
    v = start / lengths(start[None], inner)[0]
    value, residual, num = v.new_zeros(()), v.new_full((), torch.inf), 0
    for num in range(1, max_matvecs + 1):
        w = matvec(v)
        value = inner(v[None], w[None])[0, 0]
        residual = lengths((w - value * v)[None], inner)[0]
        if residual <= tol * value.abs() or num == max_matvecs or not torch.isfinite(residual):
            break
        v = w + shift * v
        v = v / lengths(v[None], inner)[0]
    converged = bool(residual <= tol * value.abs())
    return EigenPairs(value.reshape(1), v.reshape(-1, 1), residual.reshape(1), num, converged)
