"""Extreme eigenvalues of a symmetric matrix from products alone: Lanczos with full reorthogonalisation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lrscope.linalg.krylov import Krylov, wanted
from lrscope.linalg.pairs import (
    EigenPairs,
    Inner,
    Matvec,
    Which,
    dimension,
    dot,
    rank_of,
    without_autocast,
    working_dtype,
)


@without_autocast
def lanczos(
    matvec: Matvec,
    start: Tensor,
    *,
    count: int = 1,
    which: Which = "largest",
    tol: float = 1e-2,
    atol: float = 0.0,
    max_matvecs: int = 200,
    max_basis: int | None = None,
    guard: int = 0,
    risk: float | None = None,
    generator: torch.Generator | None = None,
    inner: Inner = dot,
) -> EigenPairs:
    r"""The ``count`` largest (smallest, largest in magnitude) eigenpairs of A.

    The space grows by the residual of the first unconverged Ritz pair. From one start vector that is exactly the
    Krylov space of Lanczos; written with residuals it may start from several vectors, be restarted (only the best
    Ritz vectors are kept: thick restart, Wu and Simon 2000), and take in a foreign vector. Every residual is the true
    one, also for a matrix that is symmetric only up to rounding (:class:`~lrscope.linalg.krylov.Krylov`), and
    stopping never rests on a value that merely ceased to move.

    A residual says that *an* eigenvalue is near, not that it is the largest: a start without a component along the
    top eigenvector converges to another one. ``guard`` is the safeguard for a start that someone chose; for a random
    one, ``risk`` bounds the probability. If an eigenvalue :math:`\mu` were hidden, the start would have so small a
    component c along its eigenvector that

    .. math:: c^2 \le 1 / \sum_{j \le m} p_j(\mu)^2

    with the orthonormal polynomials :math:`p_j` of the run, because :math:`c \, p_j(\mu)` is the component of the
    j-th of m + 1 orthonormal Lanczos vectors; restarts keep account of it. A random unit vector has a component below
    c with a probability of at most :math:`c \sqrt{2 P / \pi}`.

    Args:
        matvec: Symmetric A as a function ``(P,) -> (P,)``.
        start: One start vector ``(P,)``, or M of them as columns ``(P, M)``; nearly dependent ones are dropped. All
            work is done in its dtype, in float32 where that is a half precision.
        count: Number of eigenpairs, 1 ... P.
        which: The end of the spectrum: ``"largest"`` and ``"smallest"`` count signs, ``"magnitude"`` does not.
        tol: A pair has converged when ``||A v - value v|| <= tol * |value|``. The value's own error is then far
            smaller: about residual^2 / gap.
        atol: A residual accepted whatever the value; give one where the wanted eigenvalues are near zero.
        max_matvecs: Products at most; when they are spent the best pairs so far are returned, unconverged.
        max_basis: Basis vectors kept at most, ``count + 2`` or more; by default ``max(24, 3 * count)``. Two more are
            needed while a product is taken in. A small basis costs products: it is restarted whenever it is full.
        guard: If positive, a fresh random vector joins after convergence, and at least this many products are spent
            on its Krylov space: until the runner-up plus its residual lies below the last value, so that nothing
            larger is in sight.
        risk: If given, ``start`` must be one vector of independent normal numbers. The run goes on until an
            eigenvalue beyond the first value by more than its tolerance is hidden with at most this probability; 1e-3
            costs some four products more.
        generator: Draws the vectors of the guard and of restarts from an exhausted space; seeded with 0 if absent.
        inner: Inner products of rows, ``(M, P), (N, P) -> (M, N)``; for vectors cut into shards, the sum over the
            processes.

    Returns:
        Pairs, the wanted end first. Cost: ``num_matvecs`` products and O(P * max_basis) other work per product.

    Example:
        >>> A = torch.diag(torch.tensor([-5.0, 1.0, 3.0]))
        >>> lanczos(lambda v: A @ v, torch.ones(3), which="smallest").values
        tensor([-5.])
    """
    columns = start.reshape(start.shape[0], -1).to(working_dtype(start.dtype))
    local, dtype, device = len(columns), columns.dtype, columns.device
    size = dimension(columns[:, 0], inner)
    if generator is None:
        generator = torch.Generator(device=device).manual_seed(0)
    if risk is not None and (columns.shape[1] > 1 or not 0 < risk < 1):
        raise ValueError(
            f"risk: expected a probability between 0 and 1 and one random start vector, got {risk!r} and "
            f"{columns.shape[1]} vectors"
        )
    rank_of(columns[:0, 0], which)  # refuses an unknown end before any product
    limit = min(size, max_basis or max(24, 3 * count))
    if limit < min(size, count + 2):
        raise ValueError(f"max_basis: expected at least count + 2 = {count + 2}, got {max_basis}")
    space = Krylov(matvec, columns[:, 0], limit, which, inner)
    for j in range(columns.shape[1]):
        if space.num_matvecs < max_matvecs and len(space) < limit:
            space.join(columns[:, j])
    if not len(space):
        raise ValueError("start: no column with a finite, non-zero length")
    del start, columns  # a long vector less, where the caller does not hold it either

    guards = 0  # products spent on the guard
    hidden = math.nan
    while True:
        # One pair more than asked for: the guard watches the runner-up.
        values, S, residuals, scale = space.ritz(count + 1)
        if not np.isfinite(residuals).all():
            done = False
            break
        # Below a few roundings of the norm of A no residual can be told.
        enough = np.maximum(tol * np.abs(values), max(atol, 4 * torch.finfo(dtype).eps * scale))
        bad = (residuals > enough)[:count]
        done = len(values) >= count and not bad.any()
        if done and risk is not None:
            hidden = _risk(space, values[0], enough[0], size)
        unsure = done and risk is not None and hidden > risk and space.lone
        if done and not unsure:
            if guard == 0 or len(space) == size:
                break
            if guards >= guard:
                rank = wanted(values, which)
                if rank[count] + 4 * residuals[count] <= rank[count - 1] + enough[count - 1]:
                    break
        if space.num_matvecs >= max_matvecs or len(space) == size:
            done = False
            break
        if len(space) == limit:
            space.shrink(max(count + 1, limit // 2))
            values, S, residuals, scale = space.ritz(count + 1)
        if unsure:
            grown = space.grow()
        elif bad.any():
            grown = space.grow(S[:, bad.argmax()])
        else:
            grown = guards > 0 and space.grow(S[:, count])
        if not grown:  # time for the guard, or the space is invariant: only a foreign vector can add to it
            space.join(torch.randn(local, dtype=dtype, device=device, generator=generator))
        guards += done and not unsure
    found = torch.as_tensor(np.stack([values, residuals])[:, :count], dtype=dtype, device=device)
    vectors = space.vectors(S[:, :count])
    return EigenPairs(found[0], vectors.T.contiguous(), found[1], space.num_matvecs, bool(done), hidden)


def _risk(space: Krylov, value: float, enough: float, size: int) -> float:
    """Probability, at most, that the random start hides an eigenvalue beyond ``value`` by more than ``enough``."""
    ends = {"largest": [value + enough], "smallest": [value - enough]}
    component = max(map(space.component, ends.get(space.which, [abs(value) + enough, -abs(value) - enough])))
    return min(1.0, component * math.sqrt(2 * size / math.pi))
