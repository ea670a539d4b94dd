"""The trace of a matrix from products with random vectors, each estimate with its standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lrscope.linalg.pairs import (
    Inner,
    Matvec,
    dimension,
    dot,
    lengths,
    orthonormalise,
    without_autocast,
    working_dtype,
)


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random vectors.

    Attributes:
        value: The estimate.
        stderr: Its standard error: one standard deviation of what another seed would give. Estimated from few
            vectors itself, so rather a guide than a bound; 0 where the answer is exact.
        num_matvecs: Products spent.
    """

    value: float
    stderr: float
    num_matvecs: int

    def __str__(self) -> str:
        return f"{self.value:.5g} +- {self.stderr:.1g} (standard error), {self.num_matvecs} products"


@without_autocast
def hutchinson(
    matvec: Matvec,
    like: Tensor,
    *,
    num_matvecs: int = 30,
    generator: torch.Generator | None = None,
    inner: Inner = dot,
) -> Estimate:
    r"""The trace as a mean of quadratic forms in random signs.

    .. math:: \operatorname{tr} A \approx \frac1m \sum_{i=1}^m z_i^T A z_i, \qquad
              \operatorname{Var} = \frac2m \sum_{i \ne j} A_{ij}^2

    The simplest estimator, and the one for a matrix without dominant eigenvalues; its error falls as
    ``1 / sqrt(num_matvecs)``. Exact for a diagonal matrix. Two vectors of memory.

    Args:
        matvec: Symmetric A as a function ``(P,) -> (P,)``.
        like: Any vector ``(P,)`` of the dtype and on the device that products are made in; its numbers do not count.
        num_matvecs: Products to spend, m; at least 2.
        generator: Draws the signs; seeded with 0 if absent. For vectors cut into shards every process needs one
            with a seed of its own, since equal signs on two shards would bias the estimate.
        inner: Inner products of rows, ``(M, P), (N, P) -> (M, N)``; for shards, the sum over the processes.

    Raises:
        ValueError: Fewer products than an error can be told from, or shards without a generator.

    Example:
        >>> hutchinson(lambda v: 2 * v, torch.zeros(50)).value
        100.0

    References:
        Hutchinson, A stochastic estimator of the trace, 1990.
    """
    check_budget(num_matvecs, 2, generator, inner)
    draws = Draws(like, generator)
    return estimate((_form(matvec, draws.signs(), inner) for _ in range(num_matvecs)), num_matvecs)


@without_autocast
def hutch_pp(
    matvec: Matvec,
    like: Tensor,
    *,
    num_matvecs: int = 30,
    generator: torch.Generator | None = None,
    inner: Inner = dot,
) -> Estimate:
    r"""Hutch++: the trace on a sketch of the range exactly, what is left by random signs.

    .. math:: Q = \operatorname{orth}(A G), \qquad
              \operatorname{tr} A \approx \operatorname{tr} Q^T A Q
              + \frac1m \sum_i z_i^T (I - Q Q^T) A (I - Q Q^T) z_i

    with Gaussian G: the images of a few sign vectors may be dependent although those of more would not be. A third of
    the products goes to each of the sketch, the exact part and the remainder. For a positive semidefinite
    matrix the error falls as ``1 / num_matvecs``. Memory: ``num_matvecs / 3`` vectors. :func:`xtrace` is more
    accurate for the same products and keeps half of them.

    Args:
        matvec, like, generator, inner: As for :func:`hutchinson`.
        num_matvecs: Products to spend, at least 6.

    Raises:
        ValueError: Fewer products than an error can be told from, or shards without a generator.

    References:
        Meyer, Musco, Musco & Woodruff, Hutch++: optimal stochastic trace estimation, 2021, arXiv 2010.09649,
        algorithm 1.
    """
    check_budget(num_matvecs, 6, generator, inner)
    draws = Draws(like, generator)
    sketch = num_matvecs // 3
    Q, spent = like.new_empty(0, len(like), dtype=working_dtype(like.dtype)), 0
    for _ in range(min(sketch, dimension(like, inner))):
        spent += 1
        y = _apply(matvec, draws.gaussian())
        if not _finite(y, inner):
            return Estimate(math.nan, math.nan, spent)
        unit = orthonormalise(y, Q, inner)
        if unit is None:  # the range of A is spanned already
            break
        Q = torch.cat([Q, unit[None]])
    exact = math.fsum(_form(matvec, q, inner) for q in Q)
    spent += len(Q)

    def outside(z: Tensor) -> Tensor:
        return z - Q.T @ inner(Q, z[None])[:, 0]

    if len(Q) < sketch:
        return Estimate(exact, 0.0, spent)
    rest = num_matvecs - spent
    remainder = estimate((_form(matvec, outside(draws.signs()), inner) for _ in range(rest)), num_matvecs)
    return Estimate(exact + remainder.value, remainder.stderr, num_matvecs)


@without_autocast
def xtrace(
    matvec: Matvec,
    like: Tensor,
    *,
    num_matvecs: int = 30,
    generator: torch.Generator | None = None,
    inner: Inner = dot,
) -> Estimate:
    r"""XTrace: every random vector serves both the sketch and the remainder, by leaving it out in turn.

    With :math:`Q_{(i)}` an orthonormal basis of :math:`\{A \omega_j : j \ne i\}`,

    .. math:: \operatorname{tr} A \approx \frac1n \sum_i \Bigl[ \operatorname{tr} Q_{(i)}^T A Q_{(i)}
              + \nu_i^T A \, \nu_i \Bigr], \qquad
              \nu_i = \sqrt{P - n + 1} \, \frac{\mu_i}{\|\mu_i\|}, \quad \mu_i = (I - Q_{(i)} Q_{(i)}^T) \, \omega_i

    with n half the products. The best of the three where eigenvalues decay, as those of a Hessian do, and exact if
    the rank of A is below n. As n comes near P the standard error is too small, by up to a third. Memory:
    ``num_matvecs`` vectors.

    Args:
        matvec, like, generator, inner: As for :func:`hutchinson`.
        num_matvecs: Products to spend, at least 4; an odd one is left over.

    Raises:
        ValueError: Fewer products than an error can be told from, or shards without a generator.

    References:
        Epperly, Tropp & Webber, XTrace: making the most of every sample in stochastic trace estimation, 2024,
        arXiv 2301.07825, sections 1.2 and 2.1, with the normalisation of section 2.3.
    """
    check_budget(num_matvecs, 4, generator, inner)
    size = dimension(like, inner)
    n = min(num_matvecs // 2, size)
    draws = Draws(like, generator)
    omega = torch.stack([draws.gaussian() for _ in range(n)])
    omega = omega * (size / inner(omega, omega).diagonal()).sqrt()[:, None]  # on the sphere of radius sqrt(P)
    # All that is kept beside Omega and Q are small matrices: R = Q'Y with Y = A Omega, T = Q'AQ, X = Q'Omega.
    Q, rank = torch.empty_like(omega), 0
    R, T = torch.zeros(2, n, n, dtype=torch.float64, device="cpu")
    for i, w in enumerate(omega):
        y = _apply(matvec, w)
        if not _finite(y, inner):
            return Estimate(math.nan, math.nan, i + 1)
        unit = orthonormalise(y, Q[:rank], inner)
        if unit is not None:
            Q[rank] = unit
            rank += 1
        R[:rank, i] = _small(inner(Q[:rank], y[None])[:, 0])
    for j in range(rank):
        T[:rank, j] = _small(inner(Q[:rank], _apply(matvec, Q[j])[None])[:, 0])
    spent = n + rank
    if rank < n or n == size:  # Q spans the range of A
        return Estimate(float(T.trace()), 0.0, spent)
    X = _small(inner(Q, omega))
    # s_i is the direction that only Y_i brings to Q.
    S = torch.linalg.inv(R).T
    S = S / S.norm(dim=0)
    U = X - S * (S * X).sum(0)  # Q_(i)' omega_i, in the coordinates of Q
    forms = (X * R).sum(0) - 2 * (U * R).sum(0) + (U * (T @ U)).sum(0)
    left = size - (U * U).sum(0)  # squared length of omega_i outside Q_(i)
    values = T.trace() - (S * (T @ S)).sum(0) + (size - n + 1) * forms / left
    return estimate(values.tolist(), spent)


class Draws:
    """Random vectors of the shape, device and (at least single) precision of ``like``."""

    def __init__(self, like: Tensor, generator: torch.Generator | None) -> None:
        self.shape, self.device, self.dtype = like.shape, like.device, working_dtype(like.dtype)
        self.generator = generator or torch.Generator(device=like.device).manual_seed(0)

    def signs(self) -> Tensor:
        """Independent signs, ``(P,)``."""
        bits = torch.randint(0, 2, self.shape, device=self.device, dtype=torch.int8, generator=self.generator)
        return (2 * bits - 1).to(self.dtype)

    def gaussian(self) -> Tensor:
        """Independent standard normal numbers, ``(P,)``."""
        return torch.randn(self.shape, device=self.device, dtype=self.dtype, generator=self.generator)


def estimate(samples: Iterable[float], num_matvecs: int) -> Estimate:
    """Mean and standard error of independent samples; ``nan`` for the error of a single one."""
    values = torch.tensor(list(samples), dtype=torch.float64, device="cpu")
    stderr = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), stderr, num_matvecs)


def _apply(matvec: Matvec, v: Tensor) -> Tensor:
    return matvec(v).to(v)


def _form(matvec: Matvec, v: Tensor, inner: Inner) -> float:
    return float(inner(v[None], _apply(matvec, v)[None]))


def _finite(y: Tensor, inner: Inner) -> bool:
    return bool(torch.isfinite(lengths(y.reshape(-1, y.shape[-1]), inner)).all())


def _small(M: Tensor) -> Tensor:
    return M.cpu().double()


def check_budget(num_matvecs: int, least: int, generator: torch.Generator | None, inner: Inner) -> None:
    if num_matvecs < least:
        raise ValueError(f"num_matvecs: expected at least {least}, so that an error can be told, got {num_matvecs!r}")
    if generator is None and inner is not dot:
        raise ValueError(
            "generator: needed with inner=, with another seed on every process; equal signs on two shards would bias "
            "the estimate"
        )
