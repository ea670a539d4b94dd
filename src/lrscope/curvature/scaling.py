"""The diagonal S = P^-1/2 around a matrix."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lrscope.curvature.point import vector
from lrscope.linalg import Matvec


def scale_of(preconditioner: Tensor | None, theta: Tensor) -> Tensor | None:
    """P^-1/2, shape ``(P,)``, after a check of P."""
    if preconditioner is None:
        return None
    vector("preconditioner", preconditioner, theta.numel())
    if not bool((preconditioner > 0).all()):  # false for nan, too
        raise ValueError(
            f"preconditioner: expected positive numbers, smallest is {float(preconditioner.min()):.3g}; "
            "for Adam add eps"
        )
    return preconditioner.to(theta).rsqrt()


def scaled(A: Any, scale: Tensor | None = None) -> Matvec:
    """``S A S`` with S the diagonal ``scale``, or A, as the function that :mod:`lrscope.linalg` takes.

    The product is of the vector's dtype, which is wider than the model's where that is a half precision.
    """
    if scale is None:
        return lambda v: (A @ v).to(v)
    return lambda v: (scale * (A @ (scale * v))).to(v)
