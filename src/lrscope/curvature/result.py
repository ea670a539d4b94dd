"""What every curvature measurement returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lrscope.linalg import EigenPairs
from lrscope.records import Cost

if TYPE_CHECKING:
    from lrscope.curvature.probe import Choice


@dataclass(frozen=True, eq=False)
class EigenResult:
    """Largest eigenvalues of the Hessian, or of the preconditioned Hessian, with their reliability and cost.

    Attributes:
        values: Eigenvalues, largest first, shape ``(K,)``; in units of loss per squared parameter.
        vectors: Orthonormal eigenvectors, shape ``(P, K)``. With a preconditioner P they belong to the symmetric
            matrix ``P^-1/2 H P^-1/2``; ``P^-1/2 vector`` is the eigenvector of ``P^-1 H``.
        residuals: ``||A v - value v||``, shape ``(K,)``: an eigenvalue lies within this distance of the value.
        num_matvecs: Hessian-vector products spent on this answer (the probe of a new objective not counted).
        converged: Every residual is at most ``tol * |value|``.
        method: How products were made: ``"exact"``, ``"forward"`` or ``"difference"``.
        error: Relative error of one product, measured when the objective was first met.
        cost: All work, the probe included.
        preconditioned: Whether a preconditioner was used.
        note: Why this method, or what went wrong, in one line.
    """

    values: Tensor
    vectors: Tensor = field(repr=False)
    residuals: Tensor
    num_matvecs: int
    converged: bool
    method: str
    error: float
    cost: Cost = field(default_factory=Cost)
    preconditioned: bool = False
    note: str = ""

    @classmethod
    def of(cls, pairs: EigenPairs, choice: Choice, cost: Cost, *, preconditioned: bool) -> EigenResult:
        """What a solver found, by the method that was chosen for its products."""
        return cls(
            pairs.values,
            pairs.vectors,
            pairs.residuals,
            pairs.num_matvecs,
            pairs.converged,
            choice.method,
            choice.error,
            cost,
            preconditioned,
            choice.why,
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; eigenvectors left out."""
        return {
            "values": self.values.tolist(),
            "residuals": self.residuals.tolist(),
            "num_matvecs": self.num_matvecs,
            "converged": self.converged,
            "method": self.method,
            "error": self.error,
            "cost": self.cost.to_dict(),
            "preconditioned": self.preconditioned,
            "note": self.note,
        }
