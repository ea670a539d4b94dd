"""What every solver returns, what "largest" and "converged" mean, and the one orthogonalisation they share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

Matvec = Callable[[Tensor], Tensor]
"""A symmetric matrix A as a function: (P,) -> (P,), of the vector's dtype."""

Inner = Callable[[Tensor, Tensor], Tensor]
"""Inner products of the rows of two matrices: (M, P), (N, P) -> (M, N).

With vectors cut into shards, one per process, it is the product of the local shards summed over the processes, and
every solver then runs unchanged on all of them in step: it looks at long vectors through this function only.
"""

AUTOCAST = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices that have an autocast of their own."""

Which = Literal["largest", "smallest", "magnitude"]
"""Algebraically largest, algebraically smallest (most negative), or largest in absolute value."""


@dataclass(frozen=True)
class EigenPairs:
    """Approximate eigenpairs of a symmetric matrix, the wanted end of the spectrum first.

    Attributes:
        values: Ritz values, shape ``(K,)``.
        vectors: Orthonormal Ritz vectors, shape ``(P, K)``.
        residuals: ``||A v - value v||``, shape ``(K,)``; an eigenvalue of A lies within this distance.
        num_matvecs: Products spent.
        converged: Every residual is at most ``tol * |value|`` (or ``atol``, or the rounding error of a product).
        risk: Probability, at most, that the random start has hidden an eigenvalue beyond the first value by more than
            its tolerance; ``nan`` where it was not asked for.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    num_matvecs: int
    converged: bool
    risk: float = math.nan


P = ParamSpec("P")
R = TypeVar("R")


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, outside of the autocast block it may be called in, since it would halve a solver's digits."""

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for kind in AUTOCAST:
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **kwargs)

    return alone


def dot(X: Tensor, Y: Tensor) -> Tensor:
    """Inner products of the rows of X, ``(M, P)``, and Y, ``(N, P)``, on one device: ``(M, N)``."""
    return X @ Y.T


def all_reduced(X: Tensor, Y: Tensor) -> Tensor:
    """Inner products of vectors of which every process of ``torch.distributed`` holds a shard; an :data:`Inner`."""
    products = X @ Y.T
    torch.distributed.all_reduce(products)
    return products


def lengths(X: Tensor, inner: Inner = dot) -> Tensor:
    """Euclidean lengths of the rows of X, ``(M, P)``: ``(M,)``."""
    return X.norm(dim=1) if inner is dot else inner(X, X).diagonal().clamp(min=0).sqrt()


def dimension(like: Tensor, inner: Inner = dot) -> int:
    """Length of a whole vector of which ``like``, ``(P,)``, is this process's shard."""
    if inner is dot:
        return like.numel()
    ones = torch.ones_like(like)[None]
    return round(float(inner(ones, ones)))


def rank_of(values: Tensor, which: Which) -> Tensor:
    """Values so signed that the wanted ones are the largest."""
    if which == "largest":
        return values
    if which == "smallest":
        return -values
    if which == "magnitude":
        return values.abs()
    raise ValueError(f"which: expected 'largest', 'smallest' or 'magnitude', got {which!r}")


def bound(values: Tensor, tol: float, atol: float, scale: Tensor) -> Tensor:
    """The residual that is small enough, per value; below a few roundings of ``scale = ||A||`` none can be told."""
    floor = torch.clamp(4 * torch.finfo(values.dtype).eps * scale, min=atol)
    return torch.maximum(tol * values.abs(), floor)


def small_eigh(T: Tensor, which: Which = "largest") -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(M,)`` and vectors (columns) of a small matrix, the wanted ones first; float64 on the CPU."""
    small = T.cpu().double()  # eigh knows no half precision
    if not torch.isfinite(small).all():
        return small.new_full((len(small),), torch.nan), torch.eye(len(small), dtype=small.dtype, device="cpu")
    values, S = torch.linalg.eigh((small + small.T) / 2)
    order = rank_of(values, which).argsort(descending=True, stable=True)
    return values[order], S[:, order]


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a solver keeps its vectors: at least float32, since bases in half precision are none."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def orthonormalise(v: Tensor, basis: Tensor, inner: Inner = dot) -> Tensor | None:
    """Unit vector along the part of ``v``, shape ``(P,)``, outside the orthonormal rows of ``basis``, ``(M, P)``.

    ``None`` if nothing is left but rounding errors.
    """
    length = lengths(v[None], inner)[0]
    if not torch.isfinite(length) or length == 0:
        return None
    v = v / length
    for _ in range(2):  # twice is enough (Kahan's rule)
        v = _without(v, basis, inner)
    rest = lengths(v[None], inner)[0]
    if rest < 10 * torch.finfo(v.dtype).eps:
        return None
    v = v / rest
    # What is left may be short, and then its rounding errors point back into the basis.
    v = _without(v, basis, inner)
    return v / lengths(v[None], inner)[0]


def _without(v: Tensor, basis: Tensor, inner: Inner) -> Tensor:
    return v - basis.T @ inner(basis, v[None])[:, 0]
