"""Extreme eigenvalues of a symmetric matrix from products alone: Lanczos with full reorthogonalisation."""

from __future__ import annotations

import torch
from torch import Tensor

from lrscope.linalg.pairs import (
    EigenPairs,
    Inner,
    Matvec,
    Which,
    bound,
    dimension,
    dot,
    lengths,
    orthonormalise,
    rank_of,
    small_eigh,
    working_dtype,
)


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
    generator: torch.Generator | None = None,
    inner: Inner = dot,
) -> EigenPairs:
    r"""The ``count`` largest (smallest, largest in magnitude) eigenpairs of A.

    The space grows by the residual of the first unconverged Ritz pair. From one start vector that is exactly the
    Krylov space of Lanczos; written with residuals it may start from several vectors, be restarted (only the best
    Ritz vectors are kept: thick restart, Wu and Simon 2000), and take in a foreign vector. The images ``A V`` are
    kept beside the basis V, so every residual is the true one, also for a matrix that is symmetric only up to
    rounding, and stopping never rests on a value that merely ceased to move.

    A residual says that *an* eigenvalue is near, not that it is the largest: a start without a component along the
    top eigenvector converges to another one. ``guard`` is the safeguard.

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
        max_basis: Vectors kept at most (their images too); by default ``max(24, 3 * count)``.
        guard: If positive, a fresh random vector joins after convergence, and at least this many products are spent
            on its Krylov space: until the runner-up plus its residual lies below the last value, so that nothing
            larger is in sight.
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
    size = dimension(columns[:, 0], inner)
    if generator is None:
        generator = torch.Generator(device=columns.device).manual_seed(0)
    rank_of(columns[:0, 0], which)  # refuses an unknown end before any product
    limit = min(size, max_basis or max(24, 3 * count))
    if limit < min(size, count + 2):
        raise ValueError(f"max_basis: expected at least count + 2 = {count + 2}, got {max_basis}")
    space = _Space(matvec, columns, limit, which, inner)
    for column in columns.T:
        if space.num_matvecs < max_matvecs and len(space) < limit:
            space.add(column)
    if not len(space):
        raise ValueError("start: no column with a finite, non-zero length")

    guards = 0  # products spent on the guard
    while True:
        # One pair more than asked for: the guard watches the runner-up.
        values, vectors, images, scale = space.ritz(count + 1)
        errors = images - values[:, None] * vectors
        residuals = lengths(errors, inner)
        if not torch.isfinite(residuals).all():
            done = False
            break
        enough = bound(values, tol, atol, scale)
        bad = (residuals > enough)[:count]
        done = len(values) >= count and not bad.any()
        if done and (guard == 0 or len(space) == size):
            break
        if done and guards >= guard:
            rank = rank_of(values, which)
            if bool(rank[count] + 4 * residuals[count] <= rank[count - 1] + enough[count - 1]):
                break
        if space.num_matvecs >= max_matvecs or len(space) == size:
            done = False
            break
        if len(space) == limit:
            space.shrink(max(count + 1, limit // 2))
        if bad.any():
            grown = space.add(errors[int(bad.nonzero()[0])])
        elif done and guards > 0:
            grown = space.add(errors[count])
        else:
            grown = False
        if not grown:  # time for the guard, or the space is invariant: only a foreign vector can add to it
            space.add(torch.randn(len(columns), dtype=columns.dtype, device=columns.device, generator=generator))
        guards += done
    return EigenPairs(
        values[:count], vectors[:count].T.contiguous(), residuals[:count], space.num_matvecs, bool(done)
    )


class _Space:
    """An orthonormal basis (rows), the images of its vectors, and the matrix projected on it."""

    def __init__(self, matvec: Matvec, columns: Tensor, limit: int, which: Which, inner: Inner) -> None:
        self.matvec = matvec
        # Rows grow on demand: a solve that needs six vectors shall not allocate twenty-four.
        self.basis = columns.new_empty(0, len(columns))
        self.images = columns.new_empty(0, len(columns))
        self.limit = limit
        self.which: Which = which
        self.inner = inner
        self.num_matvecs = 0

    def __len__(self) -> int:
        return self.basis.shape[0]

    def add(self, v: Tensor) -> bool:
        """Take in the new direction in ``v``; False, at no cost, if there is none."""
        unit = orthonormalise(v, self.basis, self.inner)
        if unit is None:
            return False
        self.basis = torch.cat([self.basis, unit[None]])
        self.images = torch.cat([self.images, self.matvec(unit).to(unit)[None]])
        self.num_matvecs += 1
        return True

    def ritz(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Wanted Ritz values ``(K,)``, their vectors and images as rows ``(K, P)``; K = min(count, len).

        Last comes the largest magnitude among all Ritz values: what is known of the norm of A.
        """
        values, S = self._eigh()
        S = S[:, :count]
        return values[:count], S.T @ self.basis, S.T @ self.images, values.abs().amax()

    def shrink(self, keep: int) -> None:
        """Thick restart: only the ``keep`` best Ritz vectors stay."""
        _, S = self._eigh()
        S = S[:, : min(keep, len(self) - 1)]
        self.basis, self.images = S.T @ self.basis, S.T @ self.images

    def _eigh(self) -> tuple[Tensor, Tensor]:
        values, S = small_eigh(self.inner(self.basis, self.images), self.which)
        return values.to(self.basis), S.to(self.basis)
