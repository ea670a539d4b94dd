"""The formulas: each measure as a function of two sides and their cross product.

With centred activations X (rows, D1) and Y (rows, D2), whitening ``W^H X^H X W = I`` and the core
``C = Wx^H X^H Y Wy``, the canonical correlations are the singular values of C. No measure needs the rows themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from lrscope.similarity.side import Side, chunks

SAMPLES_PER_DIRECTION = 10
"""Fewer rows than this per direction, and chance alone makes correlations of about 0.3 and more."""


@dataclass(frozen=True)
class Reading:
    """A measure's value before guards and resampling; ``need`` is the number of rows that would be enough."""

    similarity: float
    distance: float
    correlations: np.ndarray
    weights: np.ndarray
    ranks: tuple[int, int]
    chance: float
    need: int


class Measure(Protocol):
    """A similarity. ``refuse`` raises when the value would be fixed by construction, before the cross product."""

    @property
    def name(self) -> str: ...
    @property
    def formula(self) -> str: ...
    @property
    def needs_norms(self) -> bool: ...
    def refuse(self, x: Side, y: Side) -> None: ...
    def read(self, x: Side, y: Side, cross: Tensor, norms: Norms | None) -> Reading: ...


@dataclass(frozen=True)
class Norms:
    """Sums over centred rows of products of their squared lengths: ``|x|^4``, ``|x|^2 |y|^2`` and ``|y|^4``."""

    xx: float
    xy: float
    yy: float

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> Norms:
        return cls(float(a @ a), float(a @ b), float(b @ b))


def squared_lengths(side: Side) -> Tensor:
    """``|x_i - mean|^2`` of every row, (rows,) float64."""
    assert side.rows is not None
    assert side.mean is not None
    return torch.cat([chunk.sub_(side.mean).abs().square_().sum(1) for chunk in chunks(side.rows)])


@dataclass(frozen=True)
class CCA:
    """Mean canonical correlation; ``variance`` makes it SVCCA, ``reference`` makes it PWCCA."""

    variance: float | None = None
    reference: Literal["x", "y"] | None = None
    formula = "1 - similarity"
    needs_norms = False

    def __post_init__(self) -> None:
        if self.variance is not None and not (isinstance(self.variance, (int, float)) and 0 < self.variance <= 1):
            raise ValueError(f"variance: expected a share in (0, 1], got {self.variance!r}; 0.99 keeps 99 %")
        if self.reference not in (None, "x", "y"):
            raise ValueError(
                f"reference: expected 'x' or 'y', the side whose units weigh the directions, got {self.reference!r}"
            )

    @property
    def name(self) -> str:
        if self.variance is not None:
            return f"svcca(variance={self.variance:g})"
        return "cca" if self.reference is None else f"pwcca(reference={self.reference!r})"

    def refuse(self, x: Side, y: Side) -> None:
        for side, name in ((x, "x"), (y, "y")):
            rank = side.whitening(self.variance).shape[1]
            if rank >= side.num_rows - 1:
                needed = SAMPLES_PER_DIRECTION * max(x.dim - x.constant, y.dim - y.constant)
                raise ValueError(
                    f"{name}: {side.num_rows} rows for {side.dim} units: {rank} directions fit any so many centred "
                    f"rows, so every canonical correlation is 1 whatever the data; bring N >= {needed} examples "
                    "(10 per unit), fewer units, svcca with a smaller variance=, or cka(debiased=True)"
                )

    def read(self, x: Side, y: Side, cross: Tensor, norms: Norms | None) -> Reading:  # noqa: ARG002
        wx, wy = x.whitening(self.variance), y.whitening(self.variance)
        core = wx.mH @ cross @ wy
        del cross  # of (D, D) matrices, the decomposition needs enough
        weights = None
        if self.reference is None:
            values = torch.linalg.svdvals(core)
        else:
            side, whitening, core = (x, wx, core) if self.reference == "x" else (y, wy, core.mH)
            # Left singular vectors alone: half the time and memory of an SVD. Lengths give the values to full
            # precision, which roots of eigenvalues would not.
            left = torch.linalg.eigh(core @ core.mH).eigenvectors[:, -min(core.shape) :].flip(1)
            values = torch.linalg.vector_norm(left.mH @ core, dim=1)
            loadings = (whitening @ left).mH @ side.moment
            loadings = loadings if side.back is None else loadings @ side.back.mH
            weights = loadings.abs().sum(1)
            weights = weights / weights.sum()
        values = values.clamp(0, 1)
        similarity = float(values.mean() if weights is None else (weights * values).sum())
        ranks = (wx.shape[1], wy.shape[1])
        return Reading(
            similarity,
            1 - similarity,
            values.cpu().numpy(),
            np.empty(0) if weights is None else weights.cpu().numpy(),
            ranks,
            min(1.0, math.sqrt(max(ranks) / (x.num_rows - 1))),
            SAMPLES_PER_DIRECTION * max(ranks),
        )


@dataclass(frozen=True)
class CKA:
    """Linear centred kernel alignment; ``debiased`` with the unbiased HSIC."""

    debiased: bool = False
    formula = "1 - similarity"

    @property
    def name(self) -> str:
        return "cka(debiased=True)" if self.debiased else "cka"

    @property
    def needs_norms(self) -> bool:
        return self.debiased

    def refuse(self, x: Side, y: Side) -> None:  # noqa: ARG002
        if self.debiased and x.num_rows < 4:
            raise ValueError(f"cka(debiased=True): the unbiased HSIC needs at least 4 rows, got {x.num_rows}")

    def read(self, x: Side, y: Side, cross: Tensor, norms: Norms | None) -> Reading:
        n, tx, ty = x.num_rows, x.total, y.total
        xx, xy, yy = (float(m.abs().square().sum()) for m in (x.moment, cross, y.moment))
        need, chance = math.ceil(SAMPLES_PER_DIRECTION * max(x.participation, y.participation)), 0.0
        if norms is not None:
            xx = unbiased_hsic(n, xx, tx, tx, norms.xx)
            xy = unbiased_hsic(n, xy, tx, ty, norms.xy)
            yy = unbiased_hsic(n, yy, ty, ty, norms.yy)
            need = 4
        if min(xx, yy) <= 0:
            flat = "x" if xx <= 0 else "y"
            raise ValueError(
                f"cka(debiased=True): the unbiased HSIC of {flat} with itself is {min(xx, yy):.2g}, not positive: "
                f"its {n} rows are alike up to noise; bring more examples"
            )
        similarity = xy / math.sqrt(xx * yy)
        if norms is None:
            chance = tx * ty / ((n - 1) * math.sqrt(xx * yy))
        similarity = max(-1.0 if self.debiased else 0.0, min(1.0, similarity))
        return Reading(
            similarity,
            1 - similarity,
            np.empty(0),
            np.empty(0),
            (len(x.moment), len(y.moment)),
            min(1.0, chance),
            need,
        )


def unbiased_hsic(n: int, frobenius: float, trace_x: float, trace_y: float, diagonal: float) -> float:
    """Song et al. (2007), equation 4, for linear kernels of centred rows (up to the factor that CKA cancels).

    Rows of a centred kernel matrix sum to 0, which leaves ``||X^H Y||^2``, the traces and ``sum_i |x_i|^2 |y_i|^2``.
    """
    return frobenius - diagonal + trace_x * trace_y / ((n - 1) * (n - 2)) - 2 * diagonal / (n - 2)


@dataclass(frozen=True)
class Procrustes:
    """Shape distance: what remains after the best rotation or reflection of one side."""

    metric: Literal["angular", "euclidean"] = "angular"
    normalised: bool = True
    needs_norms = False

    def __post_init__(self) -> None:
        if self.metric not in ("angular", "euclidean"):
            raise ValueError(f"metric: expected 'angular' or 'euclidean', got {self.metric!r}")
        if not self.normalised and self.metric == "angular":
            raise ValueError("normalised=False: an angle knows no size; take metric='euclidean'")

    @property
    def name(self) -> str:
        return f"procrustes(metric={self.metric!r})" if self.normalised else "procrustes(normalised=False)"

    @property
    def formula(self) -> str:
        if self.metric == "angular":
            return "arccos(similarity)"
        return "sqrt(2 - 2 similarity)" if self.normalised else "min over Q of ||X - Y Q||"

    def refuse(self, x: Side, y: Side) -> None: ...

    def read(self, x: Side, y: Side, cross: Tensor, norms: Norms | None) -> Reading:  # noqa: ARG002
        size_x, size_y = math.sqrt(x.total), math.sqrt(y.total)
        values = torch.linalg.svdvals(cross) / (size_x * size_y)
        nuclear = float(values.sum())
        similarity = max(0.0, min(1.0, nuclear))
        if self.metric == "angular":
            distance = math.acos(similarity)
        elif self.normalised:
            distance = math.sqrt(2 - 2 * similarity)
        else:
            distance = math.sqrt(max(0.0, size_x**2 + size_y**2 - 2 * size_x * size_y * similarity))
        ranks = (len(x.moment), len(y.moment))
        need = math.ceil(SAMPLES_PER_DIRECTION * max(x.participation, y.participation))
        return Reading(
            similarity,
            distance,
            values.cpu().numpy(),
            np.empty(0),
            ranks,
            min(1.0, math.sqrt(min(ranks) / (x.num_rows - 1))),
            need,
        )


MeasureName = Literal["cca", "svcca", "pwcca", "cka", "procrustes"]
_BUILD: dict[str, tuple[Callable[..., Measure], tuple[str, ...]]] = {
    "cca": (CCA, ()),
    "svcca": (lambda variance=0.99: CCA(variance=variance), ("variance",)),
    "pwcca": (lambda reference="x": CCA(reference=reference), ("reference",)),
    "cka": (CKA, ("debiased",)),
    "procrustes": (Procrustes, ("metric", "normalised")),
}


def measure_of(name: MeasureName, options: Mapping[str, Any]) -> Measure:
    """The measure of a name with its own options.

    Raises:
        ValueError: No measure of that name, or an option that it does not have.
    """
    if name not in _BUILD:
        raise ValueError(f"measure: expected one of {', '.join(_BUILD)}, got {name!r}")
    build, known = _BUILD[name]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    return build(**options)
