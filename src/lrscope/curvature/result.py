"""What a search for eigenvalues returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lrscope.curvature.measurement import Measurement, axes
from lrscope.linalg import EigenPairs


@dataclass(frozen=True, eq=False, kw_only=True)
class EigenResult(Measurement):
    """Largest eigenvalues of the Hessian, or of another operator, with their reliability and cost.

    See :class:`~lrscope.curvature.measurement.Measurement` for the method, the error of one product, the cost, the
    batches and the note.

    Attributes:
        values: Eigenvalues, largest first, shape ``(K,)``; of the Hessian in units of loss per squared parameter.
        vectors: Orthonormal eigenvectors, shape ``(P, K)``. With a preconditioner P they belong to the symmetric
            matrix ``P^-1/2 H P^-1/2``; ``P^-1/2 vector`` is the eigenvector of ``P^-1 H``.
        residuals: ``||A v - value v||``, shape ``(K,)``: an eigenvalue lies within this distance of the value.
        num_matvecs: Products spent on this answer (the probe of a new objective not counted).
        converged: Every residual is at most ``tol * |value|``.
        preconditioned: Whether a preconditioner was used.
        risk: Probability, at most, that the random start has hidden an eigenvalue larger than ``value`` by more than
            ``tol``; ``nan`` where the start was not one random vector.
    """

    values: Tensor
    vectors: Tensor = field(repr=False, metadata={"private": True})
    residuals: Tensor
    num_matvecs: int
    converged: bool
    preconditioned: bool = False
    risk: float = math.nan

    @classmethod
    def of(cls, pairs: EigenPairs, *, preconditioned: bool, **account: Any) -> EigenResult:
        """What a solver found, and the account of the measurement: the fields of :class:`Measurement`."""
        return cls(
            values=pairs.values,
            vectors=pairs.vectors,
            residuals=pairs.residuals,
            num_matvecs=pairs.num_matvecs,
            converged=pairs.converged,
            preconditioned=preconditioned,
            risk=pairs.risk,
            **account,
        )

    @property
    def value(self) -> float:
        """The largest eigenvalue: the sharpness."""
        return float(self.values[0])

    @property
    def residual(self) -> float:
        """The residual of :attr:`value`."""
        return float(self.residuals[0])

    def __str__(self) -> str:
        name = "preconditioned sharpness" if self.preconditioned else "sharpness"
        products = f"{self.num_matvecs} product{'s' * (self.num_matvecs != 1)}"
        text = f"{name} {self.value:.5g} +- {self.residual:.1g} (residual), {products}, {self.method}"
        if self.error > 1e-6:
            text += f" (error {self.error:.0e})"
        return text if self.converged else f"{text}, not converged"

    def plot(self, ax: Any = None) -> Any:
        """The eigenvalues in order, with residuals as error bars; returns the axes."""
        from matplotlib.ticker import MaxNLocator

        ax = axes(ax)
        ranks = range(1, len(self.values) + 1)
        ax.errorbar(ranks, self.values.tolist(), yerr=self.residuals.tolist(), fmt="o", capsize=3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("rank")
        ax.set_ylabel("preconditioned eigenvalue" if self.preconditioned else "eigenvalue")
        return ax
