"""How the eigenvalues of the Hessian are distributed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lrscope.curvature.measurement import Measurement, Measuring, axes
from lrscope.curvature.operators import LinearOperator
from lrscope.curvature.probe import Method
from lrscope.linalg import Spectrum, slq

if TYPE_CHECKING:
    from lrscope.objective import Objective


@dataclass(frozen=True, eq=False, kw_only=True)
class SpectralDensity(Measurement):
    """The density of eigenvalues; see :class:`~lrscope.curvature.measurement.Measurement` for the rest.

    Attributes:
        grid: Points, ``(G,)``, in units of the eigenvalues.
        density: Share of all eigenvalues per unit, ``(G,)``, smoothed; it integrates to 1 over the real line.
        stderr: Standard error of the density over random vectors, ``(G,)``.
        width: Standard deviation of the Gaussian that smooths.
        size: P; ``1 / size`` is the weight of a single eigenvalue.
        num_matvecs: Products spent.
        spectrum: The quadrature behind it: ``spectrum.moment(k)``, ``spectrum.trace(f)``.
    """

    grid: np.ndarray = field(repr=False)
    density: np.ndarray = field(repr=False)
    stderr: np.ndarray = field(repr=False)
    width: float
    size: int
    num_matvecs: int
    spectrum: Spectrum = field(repr=False, metadata={"private": True})

    def __str__(self) -> str:
        used = self.spectrum.nodes[self.spectrum.weights > 0]
        low, high = float(used.min()), float(used.max())
        return f"{self.size:,} eigenvalues from {low:.4g} to {high:.4g}, {self.num_matvecs} products, {self.method}"

    def plot(self, ax: Any = None) -> Any:
        """The density on a logarithmic scale with a band of two standard errors; returns the axes."""
        ax = axes(ax)
        low = np.maximum(self.density - 2 * self.stderr, 0)
        ax.fill_between(self.grid, low, self.density + 2 * self.stderr, alpha=0.3, linewidth=0)
        ax.plot(self.grid, self.density)
        ax.set_yscale("log")
        # Below a thousandth of one eigenvalue's peak there is nothing but the tails of the Gaussian.
        ax.set_ylim(bottom=1e-3 / (self.size * self.width))
        ax.set_xlabel("eigenvalue")
        ax.set_ylabel("density of eigenvalues")
        return ax


def spectral_density(
    target: Objective | LinearOperator,
    theta: Tensor | None = None,
    *,
    preconditioner: Tensor | None = None,
    steps: int = 30,
    num_probes: int = 8,
    width: float | None = None,
    grid: np.ndarray | None = None,
    method: Method = "auto",
    seed: int = 0,
) -> SpectralDensity:
    """The density of the eigenvalues of the Hessian at theta, or of an operator, by stochastic Lanczos quadrature.

    Args:
        target: An objective, or an operator such as ``GaussNewton(objective)``.
        theta: Where, ``(P,)``; the model's current parameters by default.
        preconditioner: Positive diagonal of P, ``(P,)``: the eigenvalues of ``P^-1 H``.
        steps: Products per random vector. The ends of the spectrum and outliers are resolved first; within the
            bulk, details finer than its range over ``steps`` are not.
        num_probes: Random vectors; the errors shrink as its square root.
        width: Standard deviation of the smoothing Gaussian, in units of the eigenvalues; 1 % of their range by
            default.
        grid: Where to evaluate, ``(G,)``; 400 points over the whole range by default.
        method: How products are made; see :func:`~lrscope.curvature.probe.choose`.
        seed: Of the random vectors; the global generators are not used.

    Returns:
        :class:`SpectralDensity`. Cost: ``steps * num_probes`` products, one gradient, and the probe of a new
        objective; memory: ``steps`` vectors.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        MeasurementError: Loss or gradient is not finite at theta, or no product can be computed on this model.

    Example:
        >>> spectral_density(objective).plot().figure.savefig("density.png")  # doctest: +SKIP

    References:
        Ghorbani, Krishnan & Xiao, An investigation into neural net optimization via Hessian eigenvalue density, 2019,
        arXiv 1901.10159, algorithm 1.
    """
    if width is not None and not 0 < width < float("inf"):
        raise ValueError(f"width: expected a positive standard deviation in units of the eigenvalues, got {width!r}")
    if steps < 1 or num_probes < 2:
        raise ValueError(
            "steps, num_probes: expected at least 1 and 2, so that an error can be told, "
            f"got {steps!r} and {num_probes!r}"
        )
    at = Measuring(target, theta, preconditioner=preconditioner, method=method)
    spectrum = slq(at.matvec, at.like, steps=steps, num_probes=num_probes, generator=at.generator(seed))
    width = spectrum.width if width is None else width
    grid = spectrum.grid(width=width) if grid is None else np.asarray(grid, dtype=np.float64)
    density, stderr = spectrum.density(grid, width=width)
    return SpectralDensity(
        grid=grid,
        density=density,
        stderr=stderr,
        width=width,
        size=at.size,
        num_matvecs=spectrum.num_matvecs,
        spectrum=spectrum,
        **at.account(),
    )
