"""Extreme eigenvalues of a symmetric matrix from products alone: Lanczos with full reorthogonalisation."""

from __future__ import annotations

import math

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
    risk: float | None = None,
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
    top eigenvector converges to another one. ``guard`` is the safeguard for a start that someone chose; for a random
    one, ``risk`` bounds the probability. If an eigenvalue :math:`\mu` were hidden, the start would have so small a
    component c along its eigenvector that

    .. math:: c^2 \le 1 / \sum_{j \le m} p_j(\mu)^2

    with the orthonormal polynomials :math:`p_j` of the run, because :math:`c \, p_j(\mu)` is the component of the
    j-th of m + 1 orthonormal Lanczos vectors. A random unit vector has a component below c with a probability of at
    most :math:`c \sqrt{2 P / \pi}`.

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
        risk: If given, ``start`` must be one vector of independent normal numbers. The run goes on until an
            eigenvalue beyond the first value by more than its tolerance is hidden with at most this probability; 1e-3
            costs some four products more. If the basis is full before that, the probability reached is reported.
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
    if risk is not None and (columns.shape[1] > 1 or not 0 < risk < 1):
        raise ValueError(
            f"risk: expected a probability between 0 and 1 and one random start vector, got {risk!r} and "
            f"{columns.shape[1]} vectors"
        )
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
    hidden = math.nan
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
        if done and risk is not None:
            hidden = space.risk(values[0], enough[0], size)
            if hidden > risk and space.whole and len(space) < limit:
                if space.num_matvecs >= max_matvecs:
                    done = False
                    break
                if space.add(space.outside()):
                    continue
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
        values[:count], vectors[:count].T.contiguous(), residuals[:count], space.num_matvecs, bool(done), hidden
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
        self.whole = True  # a Krylov space of its first vector: no restart so far
        self._run: tuple[Tensor, float] | None = None

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
        if self.whole:
            self._run, self.whole = self._tridiagonal(), False
        _, S = self._eigh()
        S = S[:, : min(keep, len(self) - 1)]
        self.basis, self.images = S.T @ self.basis, S.T @ self.images

    def outside(self) -> Tensor:
        """What the last image adds to the space, ``(P,)``: the next Lanczos vector times its length."""
        last = self.images[-1:]
        return (last - self.inner(last, self.basis) @ self.basis)[0]

    def risk(self, value: Tensor, enough: Tensor, size: int) -> float:
        """Probability, at most, that the random first vector hides an eigenvalue beyond ``value`` by ``enough``.

        Solving with T gives the polynomials at mu: (T - mu) p = -beta p_m e_m, with p_0 = 1.
        """
        T, beta = self._tridiagonal() if self._run is None else self._run
        theta, away = float(value), float(enough)
        ends = {"largest": [theta + away], "smallest": [theta - away]}.get(
            self.which, [abs(theta) + away, -abs(theta) - away]
        )
        if beta == 0:  # the whole Krylov space: no component is left to hide
            return 0.0
        values, S = small_eigh(T)
        overlap = 0.0  # the largest c^2 that is possible
        for mu in ends:
            x = S @ (S[-1] / (values - mu))
            overlap = max(overlap, float(x[0] ** 2 / (x @ x + 1 / beta**2)))
        return min(1.0, math.sqrt(2 * size * overlap / math.pi))

    def _tridiagonal(self) -> tuple[Tensor, float]:
        T = self.inner(self.basis, self.images).cpu().double()
        return (T + T.T) / 2, float(lengths(self.outside()[None], self.inner)[0])

    def _eigh(self) -> tuple[Tensor, Tensor]:
        values, S = small_eigh(self.inner(self.basis, self.images), self.which)
        return values.to(self.basis), S.to(self.basis)
