"""Paths through parameter space: straight lines, polygonal chains and Bezier curves as weights on control points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["bezier", "chain"]
_NODES = 64
"""Gauss-Legendre nodes of an arc length: the speed along a Bezier curve of low degree is as smooth as they come."""


@dataclass(frozen=True, eq=False)
class Points:
    """K parameter vectors, each a weighted sum of a few given ones, made when they are asked for.

    Any line, curve or plane is this. A row of ``weights`` with a single 1 gives that vector bit by bit.

    Attributes:
        controls: C vectors ``(P,)``. Those of half precision are given in float32 where they have been trained.
        weights: ``(K, C)``, float64.
        dtype: Of the vectors made.
    """

    controls: tuple[Tensor, ...]
    weights: np.ndarray
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, index: int) -> Tensor:
        return combined(self.controls, self.weights[index].tolist()).to(self.dtype)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def stack(self, where: range) -> Tensor:
        """The vectors at ``where`` as rows."""
        return torch.stack([self[i] for i in where])


def combined(controls: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """``sum_j weights[j] controls[j]``, a new vector; in float32 at least, and exact where one weight is 1."""
    used = [(w, c) for w, c in zip(weights, controls, strict=True) if w != 0]
    if len(used) == 1 and used[0][0] == 1:
        return used[0][1].clone()
    kind = torch.promote_types(controls[0].dtype, torch.float32)
    total = torch.zeros_like(controls[0], dtype=kind)
    for weight, control in used:
        total.add_(control, alpha=weight)
    return total


@dataclass(frozen=True, eq=False)
class Path:
    r"""A path from the first of its control points to the last.

    .. math:: \phi(t) = \sum_j c_j(t) \, p_j, \qquad t \in [0, 1]

    A chain of C points has :math:`c_j = \max(0, 1 - |t (C - 1) - j|)` and passes through all of them; two points make
    a straight line. A Bezier curve has :math:`c_j = \binom{C-1}{j} t^j (1 - t)^{C-1-j}` and touches the ends only.

    Attributes:
        points: ``(C, P)``, the control points.
        kind: ``"chain"`` or ``"bezier"``.
        dtype: Of the points on the path.
    """

    points: tuple[Tensor, ...]
    kind: Kind
    dtype: torch.dtype

    def __call__(self, t: float) -> Tensor:
        """The vector at ``t`` between 0 and 1, shape ``(P,)``; at 0 and 1 the ends, bit by bit."""
        if not 0 <= t <= 1:
            raise ValueError(f"t: expected a place on the path between 0 and 1, got {t!r}")
        return self.at([t])[0]

    def at(self, t: Sequence[float] | np.ndarray) -> Points:
        return Points(self.points, weights(self.kind, np.asarray(t, dtype=np.float64), len(self.points)), self.dtype)

    @property
    def length(self) -> float:
        """Euclidean length, by Gauss-Legendre quadrature of the speed in float64."""
        gram = self._gram()
        if self.kind == "chain":
            steps = np.eye(len(gram) + 1)[1:, 1:] - np.eye(len(gram) + 1)[:-1, 1:]  # of point j + 1 from point j
            return float(sum(math.sqrt(max(s @ gram @ s, 0.0)) for s in steps))
        x, w = np.polynomial.legendre.leggauss(_NODES)
        degree = len(self.points) - 1
        below = weights("bezier", (x + 1) / 2, degree)  # the hodograph has one degree less
        speed = degree * (np.pad(below, ((0, 0), (1, 0))) - np.pad(below, ((0, 0), (0, 1))))[:, 1:]
        return float(np.sqrt(np.einsum("ki,ij,kj->k", speed, gram, speed).clip(min=0)) @ w / 2)

    @property
    def distance(self) -> float:
        """Euclidean distance of the ends."""
        return math.sqrt(max(self._gram()[-1, -1], 0.0))

    def travelled(self, t: np.ndarray) -> np.ndarray:
        """Length of the path up to each ``t``, along chords between them; shape ``(K,)``."""
        gram = self._gram()
        steps = np.diff(weights(self.kind, t, len(self.points))[:, 1:], axis=0)
        chords = np.sqrt(np.einsum("ki,ij,kj->k", steps, gram, steps).clip(min=0))
        return np.concatenate([[0.0], chords.cumsum()])

    def _gram(self) -> np.ndarray:
        """Inner products of the points seen from the first, ``(C - 1, C - 1)``: all that lengths depend on."""
        return gram_of([p.double() - self.points[0].double() for p in self.points[1:]])


def gram_of(vectors: Sequence[Tensor]) -> np.ndarray:
    """Inner products of vectors ``(P,)`` in float64."""
    return np.array([[float(u.double() @ v.double()) for v in vectors] for u in vectors])


def weights(kind: Kind, t: np.ndarray, count: int) -> np.ndarray:
    """Weights of ``count`` control points at each ``t``, shape ``(K, count)``; rows sum to 1."""
    j: Any = np.arange(count)
    if kind == "chain":
        return np.maximum(0.0, 1 - np.abs(t[:, None] * (count - 1) - j))
    choose = np.array([math.comb(count - 1, int(k)) for k in j], dtype=np.float64)
    return choose * t[:, None] ** j * (1 - t[:, None]) ** (count - 1 - j)
