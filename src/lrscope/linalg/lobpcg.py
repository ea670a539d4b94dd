"""Extreme eigenvalues of a symmetric matrix by a block of gradient steps, in memory that does not grow."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lrscope.linalg.pairs import (
    EigenPairs,
    Inner,
    Matvec,
    bound,
    dimension,
    dot,
    lengths,
    orthonormalise,
    small_eigh,
    without_autocast,
    working_dtype,
)


@without_autocast
def lobpcg(
    matvec: Matvec,
    start: Tensor,
    *,
    count: int = 1,
    which: Literal["largest", "smallest"] = "largest",
    tol: float = 1e-2,
    atol: float = 0.0,
    max_matvecs: int = 200,
    precondition: Matvec | None = None,
    generator: torch.Generator | None = None,
    inner: Inner = dot,
) -> EigenPairs:
    r"""The ``count`` largest or smallest eigenpairs of A by locally optimal block conjugate gradients.

    Each iteration maximises the Rayleigh quotient over the span of the block X, its residuals R and its last step D:

    .. math:: X \leftarrow \text{top Ritz vectors of A in } \operatorname{span}[X, R, D]

    Six long vectors per column are kept from one iteration to the next, up to eighteen while they are recombined,
    whatever the number of iterations; a good start is used fully. From one random start
    :func:`~lrscope.linalg.lanczos` with ``max_basis=4`` needs six in all, and about as many products.

    Args:
        matvec: Symmetric A as a function ``(P,) -> (P,)``.
        start: First guess ``(P,)``, or a block of M as columns ``(P, M)``, for example the vectors of an earlier
            solve; random columns are added until there are ``count``. Columns beyond ``count`` need not converge;
            they widen the gap that governs the speed, and a random one guards against a start that hides a larger
            eigenvalue.
        count: Number of eigenpairs.
        which: The end of the spectrum.
        tol: A pair has converged when ``||A v - value v|| <= tol * |value|``.
        atol: A residual accepted whatever the value; give one where the wanted eigenvalues are near zero.
        max_matvecs: Products at most; when they are spent the best pairs so far are returned, unconverged.
        precondition: Approximate inverse of A - value, positive definite, applied to residuals ``(P,) -> (P,)``.
        generator: Draws the random columns; seeded with 0 if absent.
        inner: Inner products of rows; for vectors cut into shards, the sum over the processes.

    Returns:
        Pairs, the wanted end first. Cost: one product per iteration and unconverged column.

    Raises:
        ValueError: ``which`` is neither end, or the block has more columns than the matrix.

    Example:
        >>> A = torch.diag(torch.tensor([-5.0, 1.0, 3.0]))
        >>> lobpcg(lambda v: A @ v, torch.ones(3)).values
        tensor([3.])

    References:
        Knyazev, Toward the optimal preconditioned eigensolver, SIAM J. Sci. Comput. 23, 2001, algorithm 5.1; with the
        orthonormal basis of Hetmaniuk and Lehoucq, J. Comput. Phys. 218, 2006, section 4.2.
    """
    if which not in ("largest", "smallest"):
        raise ValueError(f"which: expected 'largest' or 'smallest' (lanczos also takes 'magnitude'), got {which!r}")
    rows = start.reshape(start.shape[0], -1).to(working_dtype(start.dtype)).T
    size, block = dimension(rows[0], inner), max(count, len(rows))
    if block > size:
        raise ValueError(f"start: a block of {block} columns does not fit into {size} dimensions; give fewer")
    if generator is None:
        generator = torch.Generator(device=rows.device).manual_seed(0)

    def foreign() -> Tensor:
        return torch.randn(rows.shape[1], dtype=rows.dtype, device=rows.device, generator=generator)

    def images(X: Tensor) -> Tensor:
        return torch.stack([matvec(x).to(x) for x in X]) if len(X) else X

    X = _extend(rows[:0], list(rows), inner)
    while len(X) < block:
        X = _extend(X, [foreign()], inner)
    X = X[:max_matvecs]
    AX, num_matvecs = images(X), len(X)
    D = AD = X[:0]
    basis, image = X, AX
    while True:
        values, C, away, scale = _ritz(basis, image, len(X), which, inner)
        X, AX = C.T @ basis, C.T @ image
        D, AD = away.T @ basis, away.T @ image
        R = AX - values[:, None] * X
        residuals = lengths(R, inner)
        if not torch.isfinite(residuals).all():
            done = False
            break
        bad = residuals > bound(values, tol, atol, scale)
        done = len(X) >= count and not bool(bad[:count].any())
        if done or num_matvecs >= max_matvecs:
            break
        steps = R[bad] if precondition is None else torch.stack([precondition(r).to(r) for r in R[bad]])
        kept = torch.cat([X, D])
        basis = _extend(kept, list(steps), inner)
        if len(basis) == len(kept):  # invariant, though unconverged: only a foreign vector can add to it
            basis = _extend(kept, [foreign()], inner)
        new = basis[len(kept) :][: max_matvecs - num_matvecs]
        if not len(new):
            break
        basis, image = torch.cat([kept, new]), torch.cat([AX, AD, images(new)])
        num_matvecs += len(new)
    return EigenPairs(values[:count], X[:count].T.contiguous(), residuals[:count], num_matvecs, done)


def _extend(basis: Tensor, vectors: list[Tensor], inner: Inner) -> Tensor:
    """The orthonormal rows of ``basis`` and what is new in ``vectors``."""
    for v in vectors:
        unit = orthonormalise(v, basis, inner)
        if unit is not None:
            basis = torch.cat([basis, unit[None]])
    return basis


def _ritz(
    basis: Tensor, image: Tensor, block: int, which: Literal["largest", "smallest"], inner: Inner
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ritz values ``(M,)``, their coefficients in ``basis`` as columns, those of the next D, and the norm of A.

    The basis is orthonormal up to rounding errors, which would grow over many iterations; its Cholesky factor takes
    them out. D is the part of the new X outside the old one, made orthogonal to the new X.
    """
    G, T = inner(basis, basis).cpu().double(), inner(basis, image).cpu().double()
    inverse = torch.linalg.inv(torch.linalg.cholesky((G + G.T) / 2))
    values, Y = small_eigh(inverse @ T @ inverse.T, which)
    Y = Y[:, :block]
    step = Y.clone()
    step[:block] = 0
    step = step - Y @ (Y.T @ step)
    U, lengths_, _ = torch.linalg.svd(step, full_matrices=False)
    step = U[:, lengths_ > 1e-12]
    step = step - Y @ (Y.T @ step)
    step = torch.linalg.qr(step)[0]
    return (
        values[:block].to(basis),
        (inverse.T @ Y).to(basis),
        (inverse.T @ step).to(basis),
        values.abs().amax().to(basis),
    )
