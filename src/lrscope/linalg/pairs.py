"""What every solver returns, and the one orthogonalisation they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Matvec = Callable[[Tensor], Tensor]
"""A symmetric matrix A as a function: (P,) -> (P,), of the vector's dtype."""


@dataclass(frozen=True)
class EigenPairs:
    """Approximate eigenpairs of a symmetric matrix, largest first.

    Attributes:
        values: Ritz values, shape ``(K,)``.
        vectors: Orthonormal Ritz vectors, shape ``(P, K)``.
        residuals: ``||A v - value v||``, shape ``(K,)``; an eigenvalue of A lies within this distance.
        num_matvecs: Products spent.
        converged: Every residual is at most ``tol * |value|``.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    num_matvecs: int
    converged: bool


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a solver keeps its vectors: at least float32, since bases in half precision are none."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def orthonormalise(v: Tensor, basis: Tensor) -> Tensor | None:
    """Unit vector along the part of ``v``, shape ``(P,)``, outside the orthonormal rows of ``basis``, ``(M, P)``.

    ``None`` if nothing is left but rounding errors.
    """
    length = v.norm()
    if not torch.isfinite(length) or length == 0:
        return None
    v = v / length
    for _ in range(2):  # twice is enough (Kahan's rule)
        v = v - basis.T @ (basis @ v)
    rest = v.norm()
    if rest < 10 * torch.finfo(v.dtype).eps:
        return None
    v = v / rest
    # What is left may be short, and then its rounding errors point back into the basis.
    v = v - basis.T @ (basis @ v)
    return v / v.norm()
