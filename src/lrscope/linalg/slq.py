"""Stochastic Lanczos quadrature: where the eigenvalues lie, from a few short Lanczos runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lrscope.linalg.pairs import Inner, Matvec, dimension, dot, orthonormalise, small_eigh, without_autocast
from lrscope.linalg.trace import Draws, Estimate, check_budget, estimate


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""Quadrature rules for the spectral measure of a symmetric matrix, one per random vector.

    For a function f, :math:`\operatorname{tr} f(A) / P \approx \sum_i w_i f(x_i)` in every row; rows differ as the
    random vectors do, which is where the errors come from.

    Attributes:
        nodes: Ritz values x, ``(probes, steps)``, largest first.
        weights: w, same shape; each row sums to 1. Unused places of a run that ended early weigh 0.
        size: P, the dimension of the matrix.
        num_matvecs: Products spent.
    """

    nodes: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    size: int
    num_matvecs: int

    def trace(self, f: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> Estimate:
        """The trace of f(A), for f smooth on the spectrum; f takes and gives arrays. The trace of A by default."""
        samples = self.size * (self.weights * np.asarray(f(self.nodes))).sum(1)
        return estimate(samples.tolist(), self.num_matvecs)

    def moment(self, k: int) -> Estimate:
        """Mean of the k-th powers of the eigenvalues; the quadrature is exact for k below twice the steps."""
        if k < 0:
            raise ValueError(f"k: expected a power of 0 or more, got {k!r}")
        return estimate((self.weights * self.nodes**k).sum(1).tolist(), self.num_matvecs)

    def grid(self, num: int = 400, width: float | None = None) -> np.ndarray:
        """Points covering all nodes and six widths beyond, ``(num,)``."""
        low, high = self._range()
        margin = 6 * (self.width if width is None else width)
        return np.linspace(low - margin, high + margin, num)

    def density(self, grid: np.ndarray | None = None, *, width: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        r"""Share of eigenvalues per unit, smoothed by a Gaussian, and its standard error; both as ``grid``.

        Args:
            grid: Where; :meth:`grid` by default.
            width: Standard deviation of the Gaussian, in units of the eigenvalues; 1 % of the range of the nodes by
                default. Details finer than that, or than the range over the number of steps, are not resolved.
        """
        width = self.width if width is None else width
        if not width > 0:
            raise ValueError(
                f"width: expected a positive standard deviation in units of the eigenvalues, got {width!r}"
            )
        grid = self.grid(width=width) if grid is None else np.asarray(grid, dtype=np.float64)
        rows = np.stack([self._smooth(grid, x, w, width) for x, w in zip(self.nodes, self.weights, strict=True)])
        num = len(rows)
        stderr = rows.std(0, ddof=1) / math.sqrt(num) if num > 1 else np.full_like(grid, math.nan)
        return rows.mean(0), stderr

    @staticmethod
    def _smooth(grid: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
        z = (grid[:, None] - nodes[None]) / width
        return (np.exp(-0.5 * z * z) @ weights) / (width * math.sqrt(2 * math.pi))

    def _range(self) -> tuple[float, float]:
        used = self.nodes[self.weights > 0]
        return float(used.min()), float(used.max())

    @property
    def width(self) -> float:
        """The default smoothing: 1 % of the range of the nodes."""
        low, high = self._range()
        size = max(abs(low), abs(high))
        # All nodes may be one eigenvalue, apart from rounding.
        return 0.01 * (high - low if high - low > 1e-6 * size else size or 1.0)


@without_autocast
def slq(
    matvec: Matvec,
    like: Tensor,
    *,
    steps: int = 30,
    num_probes: int = 8,
    generator: torch.Generator | None = None,
    inner: Inner = dot,
) -> Spectrum:
    r"""Quadrature of the spectral measure by Lanczos runs from random unit vectors.

    A run of m steps from v gives the m-point Gauss rule of :math:`\sum_j (q_j^T v)^2 \delta(\lambda_j)`: nodes are
    its Ritz values, weights the squared first entries of their eigenvectors. For random v its mean is the spectral
    measure. Every basis is fully orthogonalised, so no eigenvalue is counted twice.

    Args:
        matvec: Symmetric A as a function ``(P,) -> (P,)``.
        like: Any vector ``(P,)`` of the dtype and on the device that products are made in; its numbers do not count.
        steps: Products per run, m.
        num_probes: Runs; at least 2, since the errors come from their differences.
        generator: Draws the vectors; seeded with 0 if absent. For vectors cut into shards every process needs one
            with a seed of its own.
        inner: Inner products of rows; for shards, the sum over the processes.

    Returns:
        :class:`Spectrum`. Cost: ``steps * num_probes`` products; memory: ``steps`` vectors.

    Raises:
        ValueError: Too few steps or probes, or shards without a generator.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 1.0, 4.0]))
        >>> spectrum = slq(lambda v: A @ v, torch.zeros(3), num_probes=2)
        >>> round(spectrum.moment(0).value, 6)
        1.0

    References:
        Golub & Meurant, Matrices, Moments and Quadrature, 2010, chapter 7; Ubaru, Chen & Saad, Fast estimation of
        tr(f(A)) via stochastic Lanczos quadrature, 2017, algorithm 1; for Hessians: Ghorbani, Krishnan & Xiao, 2019,
        arXiv 1901.10159.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1 product per run, got {steps!r}")
    if num_probes < 2:
        raise ValueError(f"num_probes: expected at least 2, so that an error can be told, got {num_probes!r}")
    check_budget(steps * num_probes, 2, generator, inner)
    size, draws, spent = dimension(like, inner), Draws(like, generator), 0
    nodes, weights = np.zeros((num_probes, steps)), np.zeros((num_probes, steps))
    for probe in range(num_probes):
        x, w = _gauss_rule(matvec, draws.gaussian(), min(steps, size), inner)
        spent += len(x)
        nodes[probe, : len(x)], weights[probe, : len(x)] = x, w
    return Spectrum(nodes, weights, size, spent)


def _gauss_rule(matvec: Matvec, v: Tensor, steps: int, inner: Inner) -> tuple[np.ndarray, np.ndarray]:
    basis, T = v.new_empty(0, len(v)), torch.zeros(steps, steps, dtype=torch.float64, device="cpu")
    image = v
    for j in range(steps):
        unit = orthonormalise(image, basis, inner)
        if unit is None:  # an invariant space: the rule is exact
            break
        basis = torch.cat([basis, unit[None]])
        image = matvec(unit).to(unit)
        T[: j + 1, j] = inner(basis, image[None])[:, 0].cpu().double()
    m = len(basis)
    values, S = small_eigh(torch.triu(T[:m, :m]) + torch.triu(T[:m, :m], 1).T)
    return values.numpy(), S[0].square().numpy()
