"""Symmetric matrices with ``@``, and the algebra on them: sums, multiples, deflation, preconditioning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor

from lrscope.curvature.point import vector
from lrscope.curvature.scaling import scale_of
from lrscope.linalg import working_dtype


class LinearOperator(Protocol):
    """What the algebra asks of a matrix."""

    @property
    def size(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def __matmul__(self, v: Tensor, /) -> Tensor: ...


class Operator(ABC):
    """A symmetric matrix known by its products.

    ``A @ v`` takes ``(P,)``, or ``(P, K)`` column by column. ``A + B``, ``A - B``, ``2 * A`` and ``-A`` are operators
    again. A new one writes :meth:`_product`.

    Attributes:
        size: P.
        dtype, device: Of products.
        num_matvecs: Products so far.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.size = size
        self.dtype = dtype
        self.device = device
        self.num_matvecs = 0

    def __matmul__(self, v: Tensor) -> Tensor:
        """A v for v of shape ``(P,)``, or A V, column by column, for ``(P, K)``."""
        if vector("v", v, self.size, columns=True).ndim == 2:
            return torch.stack([self @ column for column in v.T], dim=1)
        self.num_matvecs += 1
        return self._product(v)

    @abstractmethod
    def _product(self, v: Tensor) -> Tensor: ...

    def dense(self) -> Tensor:
        """All of it, ``(P, P)``, for small P; cost: P products."""
        return self @ torch.eye(self.size, dtype=self.dtype, device=self.device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size:,} x {self.size:,})"

    def __add__(self, other: LinearOperator) -> Operator:
        return Sum(self, other) if hasattr(other, "__matmul__") else NotImplemented

    def __radd__(self, other: LinearOperator) -> Operator:
        return Sum(other, self) if hasattr(other, "__matmul__") else NotImplemented

    def __sub__(self, other: LinearOperator) -> Operator:
        return Sum(self, Scaled(other, -1.0)) if hasattr(other, "__matmul__") else NotImplemented

    def __rsub__(self, other: LinearOperator) -> Operator:
        return Sum(other, Scaled(self, -1.0)) if hasattr(other, "__matmul__") else NotImplemented

    def __mul__(self, factor: float) -> Operator:
        return Scaled(self, factor) if isinstance(factor, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Operator:
        return Scaled(self, -1.0)


class _Combined(Operator):
    def __init__(self, like: LinearOperator) -> None:
        super().__init__(like.size, like.dtype, like.device)
        self._like = like

    # A result tells what it was measured on, and how, also through a combination.

    @property
    def objective(self) -> Any:
        return getattr(self._like, "objective", None)

    @property
    def method(self) -> str:
        return getattr(self._like, "method", type(self).__name__)


class Sum(_Combined):
    """A + B + ...; every product takes one of each term.

    Raises:
        ValueError: The terms are of different sizes.
    """

    def __init__(self, *terms: LinearOperator) -> None:
        super().__init__(terms[0])
        sizes = {term.size for term in terms}
        if len(sizes) > 1:
            raise ValueError(f"terms: expected operators of one size, got {sorted(sizes)}")
        self.terms = terms

    def _product(self, v: Tensor) -> Tensor:
        total = self.terms[0] @ v
        for term in self.terms[1:]:
            total = total + term @ v
        return total


class Scaled(_Combined):
    """``factor * A``."""

    def __init__(self, A: LinearOperator, factor: float) -> None:
        super().__init__(A)
        self.A, self.factor = A, float(factor)

    def _product(self, v: Tensor) -> Tensor:
        return self.factor * (self.A @ v)


class Deflated(_Combined):
    r"""A with known eigenpairs taken out: :math:`A - \sum_i \lambda_i v_i v_i^T`.

    What is left has the other eigenvalues, and 0 in place of the known ones. Solve for them from another ``seed``:
    the same random start has nothing left of a second eigenvector with a known eigenvalue.

    Args:
        A: The matrix.
        values: Eigenvalues, ``(K,)``.
        vectors: Their orthonormal vectors, ``(P, K)``; ``Deflated(A, result.values, result.vectors)``.
    """

    def __init__(self, A: LinearOperator, values: Tensor, vectors: Tensor) -> None:
        super().__init__(A)
        if vectors.shape != (A.size, len(values)):
            raise ValueError(f"vectors: expected shape ({A.size}, {len(values)}), got {tuple(vectors.shape)}")
        self.A, self.values, self.vectors = A, values, vectors

    def _product(self, v: Tensor) -> Tensor:
        image = self.A @ v
        V = self.vectors.to(image)
        return image - V @ (self.values.to(image) * (V.T @ v.to(image)))


class Preconditioned(_Combined):
    r"""The symmetric form :math:`P^{-1/2} A P^{-1/2}`, with the eigenvalues of :math:`P^{-1} A`.

    Args:
        A: The matrix, for example a Hessian.
        P: Positive diagonal, ``(P,)``, from :func:`~lrscope.curvature.preconditioner`; ``inf`` marks parameters that
            do not move.
    """

    def __init__(self, A: LinearOperator, P: Tensor) -> None:
        super().__init__(A)
        # Kept wider than a half precision: entries of P span many orders of magnitude.
        scale = scale_of(P, torch.empty(A.size, dtype=working_dtype(A.dtype), device=A.device))
        assert scale is not None
        self.A, self.scale = A, scale

    def _product(self, v: Tensor) -> Tensor:
        return self.scale * (self.A @ (self.scale * v))
