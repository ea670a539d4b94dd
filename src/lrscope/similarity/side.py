"""One representation in second moments: what it varies in, how much, and what of that is only rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

CHUNK, CHUNK_ROWS = 2**19, 512
"""Numbers converted to float64 at a time (4 MB), or this many rows: enough for matrix products at full speed."""
RANK_TOL = 1e-12
"""Variance, relative to the largest, under which a direction of float64 moments is not told from their rounding."""


@dataclass(eq=False)
class Side:
    """Centred second moments of one representation.

    Attributes:
        moment: Sum over rows of ``(x - mean)^H (x - mean)``, shape (D, D), float64, for the units that vary.
        num_rows: Rows that were summed.
        dim: Units as given.
        constant: Units left out because they do not vary beyond the rounding of their dtype.
        noise: Share of a unit's variance, in the mean over units, that rounding of the input alone may make.
        rows: Examples (N, P, units) where they are at hand, and ``mean`` (units,) of them.
        units: Indices (D,) of the units that vary; ``None`` for all.
        back: Orthonormal (D as given, D) when rows are coordinates in fewer directions than there are units.
    """

    moment: Tensor
    num_rows: int
    dim: int
    constant: int
    noise: float
    rows: Tensor | None = None
    mean: Tensor | None = None
    units: Tensor | None = None
    back: Tensor | None = None
    _bases: dict[float | None, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, rows: Tensor, eps: float, name: str) -> Side:
        """Measure rows (N, P, D); refuses NaN and infinity, and says where they are."""
        mean = mean_of(rows)
        if not bool(torch.isfinite(mean.abs().sum())):
            raise ValueError(_where_not_finite(rows, name))
        if rows.shape[-1] > rows.shape[0] * rows.shape[1]:
            return cls._wide(rows, mean, eps, name)
        return cls.from_moment(product(rows, rows, mean, mean), mean, len(rows) * rows.shape[1], eps, name, rows)

    @classmethod
    def from_moment(
        cls, moment: Tensor, mean: Tensor, num_rows: int, eps: float, name: str, rows: Tensor | None = None
    ) -> Side:
        """From sums; ``eps`` is the rounding of the dtype that the activations came in."""
        units, noise = _varying(torch.diagonal(moment).real, mean, num_rows, eps, name)
        kept = moment if units is None else moment[units][:, units]
        return cls(kept, num_rows, len(mean), len(mean) - len(kept), noise, rows, mean, units)

    @classmethod
    def _wide(cls, rows: Tensor, mean: Tensor, eps: float, name: str) -> Side:
        """More units than rows: rows become at most N - 1 coordinates, which no measure can tell from the units.

        The eigenvectors of the small (rows x rows) matrix give them, so no (D, D) matrix is made.
        """
        centred = rows.to(home(rows)).to(mean.dtype).flatten(0, 1) - mean
        units, noise = _varying(centred.abs().square().sum(0), mean, len(centred), eps, name)
        dim = centred.shape[1]
        if units is not None:
            centred = centred[:, units]
        values, vectors = torch.linalg.eigh(centred @ centred.mH)
        kept = values > max(RANK_TOL, noise) * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        coordinates = vectors * values.sqrt()
        side = cls(torch.diag(values).to(coordinates.dtype), len(centred), dim, dim - centred.shape[1], noise)
        side.rows = coordinates.reshape(*rows.shape[:2], -1)
        side.mean = torch.zeros_like(coordinates[0])
        side.back = centred.mH @ (vectors / values.sqrt())
        return side

    def cross(self, other: Side, order: Tensor | None = None) -> Tensor:
        """Sum over rows of ``(x - mean_x)^H (y - mean_y)``, with the examples of ``other`` in another ``order``."""
        assert self.rows is not None
        assert other.rows is not None
        assert self.mean is not None
        assert other.mean is not None
        out = product(self.rows, other.rows, self.mean, other.mean, order)
        out = out if self.units is None else out[self.units]
        return out if other.units is None else out[:, other.units]

    @property
    def total(self) -> float:
        """Trace of the moment."""
        return float(torch.diagonal(self.moment).real.sum())

    @property
    def participation(self) -> float:
        """Participation ratio ``(tr S)^2 / tr S^2``: the number of equal directions that would spread as much."""
        return self.total**2 / float(self.moment.abs().square().sum())

    def whitening(self, variance: float | None = None) -> Tensor:
        """``W`` (D, r) with ``W^H S W = I``: all directions that vary, or those leading in a share of variance."""
        if variance not in self._bases:
            self._bases[variance] = self._all_directions() if variance is None else self._leading(variance)
        return self._bases[variance]

    def _all_directions(self) -> Tensor:
        # Units are brought to one scale first, or one loud unit would hide quiet ones behind the tolerance.
        scale = torch.diagonal(self.moment).real.rsqrt()
        shape = self.moment * scale[:, None] * scale
        # Cholesky costs a tenth of the eigenvalues. ||A|| ||inv A|| bounds the condition, so full rank is certain.
        inverse, failed = torch.linalg.cholesky_ex(shape)
        if not int(failed):
            size = torch.linalg.norm(inverse)
            one = torch.eye(len(shape), dtype=shape.dtype, device=shape.device)
            inverse = torch.linalg.solve_triangular(inverse, one, upper=False)
            condition = float(size * torch.linalg.norm(inverse)) ** 2
            if condition * max(RANK_TOL, self.noise) < 1:
                return inverse.mul_(scale).mH
        del inverse
        values, vectors = torch.linalg.eigh(shape)
        kept = values > max(RANK_TOL, self.noise) * values[-1]
        return vectors[:, kept] * values[kept].rsqrt() * scale[:, None]

    def _leading(self, variance: float) -> Tensor:
        values, vectors = torch.linalg.eigh(self.moment)
        values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
        enough = int((values.cumsum(0) < variance * values.sum()).sum()) + 1
        count = min(enough, int((values > max(RANK_TOL, self.noise) * values[0]).sum()))
        return vectors[:, :count] * values[:count].rsqrt()


def mean_of(rows: Tensor) -> Tensor:
    """Mean over examples and positions, float64 (complex128), shape (D,)."""
    total = torch.zeros(rows.shape[-1], dtype=working(rows), device=home(rows))
    for chunk in chunks(rows):
        total += chunk.sum(0)
    return total / (rows.shape[0] * rows.shape[1])


def product(a: Tensor, b: Tensor, mean_a: Tensor, mean_b: Tensor, order: Tensor | None = None) -> Tensor:
    """Sum over rows of ``(a - mean_a)^H (b - mean_b)``, float64; ``order`` permutes the examples of ``b``."""
    out = torch.zeros(a.shape[-1], b.shape[-1], dtype=mean_a.dtype, device=mean_a.device)
    if a is b and order is None:
        for chunk in chunks(a):
            add_gram(out, chunk.sub_(mean_a))
        return mirrored(out)
    width = a.shape[-1] + b.shape[-1]
    for one, two in zip(chunks(a, width), chunks(b, width, order), strict=True):
        out.addmm_(one.sub_(mean_a).mH, two.sub_(mean_b))
    return out


def chunks(rows: Tensor, width: int | None = None, order: Tensor | None = None) -> Iterator[Tensor]:
    """Float64 copies of some rows at a time, shape (rows, D); free to be written to."""
    step = max(1, max(CHUNK_ROWS, CHUNK // (width or rows.shape[-1])) // rows.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step] if order is None else rows[order[start : start + step]]
        yield part.reshape(-1, rows.shape[-1]).to(home(rows)).to(working(rows), copy=True)


def working(rows: Tensor) -> torch.dtype:
    return torch.complex128 if rows.is_complex() else torch.float64


def home(rows: Tensor) -> torch.device:
    """Where sums are kept: where the rows are, unless that device has no float64."""
    return torch.device("cpu") if rows.device.type == "mps" else rows.device


def add_gram(out: Tensor, chunk: Tensor, bands: int = 2) -> None:
    """Add ``chunk^H chunk`` to the upper triangle of ``out``; what lies under the ``bands`` is not computed."""
    step = -(-out.shape[0] // bands)
    for start in range(0, out.shape[0], step):
        band = slice(start, start + step)
        out[band, start:].addmm_(chunk[:, band].mH, chunk[:, start:])


def mirrored(upper: Tensor) -> Tensor:
    """The whole Hermitian matrix of its upper triangle."""
    upper = upper.triu()
    return upper.add_(upper.triu(1).mH)


def _varying(spread: Tensor, mean: Tensor, num_rows: int, eps: float, name: str) -> tuple[Tensor | None, float]:
    """Units whose spread is more than rounding (``None``: all of them), and the share of rounding in those."""
    if not bool(torch.isfinite(spread.sum())):
        raise ValueError(f"{name}: squares of the activations overflow float64; scale them down")
    keep = spread > num_rows * (max(eps, 1e-14) * mean.abs()).square()
    if not bool(keep.any()):
        raise ValueError(
            f"{name}: none of the {len(keep)} units varies over the examples, so there is nothing to compare"
        )
    noise = eps**2 * (1 + num_rows * mean[keep].abs().square() / spread[keep])
    return (None if bool(keep.all()) else keep.nonzero()[:, 0]), float(noise.mean())


def _where_not_finite(rows: Tensor, name: str) -> str:
    bad = (~torch.isfinite(rows)).nonzero()
    if not len(bad):
        return f"{name}: sums of the activations overflow float64; scale them down"
    example, position, unit = bad[0].tolist()
    place = f"example {example}, unit {unit}" + (f", position {position}" if rows.shape[1] > 1 else "")
    kind = "NaN" if bool(torch.isnan(rows[example, position, unit])) else "infinity"
    return (
        f"{name}: {len(bad)} of {rows.numel()} activations are not finite, the first ({kind}) at {place}; "
        "a diverged model or an overflow in half precision has no similarity"
    )
