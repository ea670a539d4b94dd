"""A measured plane of parameter space, and what it shows of points off it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lrscope.landscape.path import gram_of
from lrscope.records import Cost


@dataclass(frozen=True, eq=False)
class Projection:
    """Points of parameter space as seen on a plane.

    Attributes:
        xy: ``(K, 2)``, nearest places on the plane.
        lost: ``(K,)``, distance from the plane in units of the distance from its origin: 0 on the plane, 1 where the
            picture shows nothing of the point. ``nan`` at the origin itself.
    """

    xy: np.ndarray
    lost: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Plane:
    """Loss and metrics on a plane of parameter space, at ``origin + x directions[0] + y directions[1]``.

    Attributes:
        origin: ``(P,)``.
        directions: Two vectors, ``(P,)`` each.
        x, y: The grid along them, ``(nx,)`` and ``(ny,)``.
        values: By column, ``(ny, nx)``.
        marks: Named places ``(x, y)``: the networks that the plane was laid through.
        scale: Euclidean length of one unit of x and of y.
        labels: What the axes are.
        explained: Shares of a trajectory's variance along x and y; ``None`` for planes of another kind.
        trajectory: Where the trajectory that the plane was made from lies.
        cost: Forward passes, in units of a training batch.
    """

    origin: Tensor
    directions: tuple[Tensor, Tensor]
    x: np.ndarray
    y: np.ndarray
    values: dict[str, np.ndarray]
    marks: dict[str, tuple[float, float]]
    scale: tuple[float, float]
    labels: tuple[str, str]
    cost: Cost
    explained: tuple[float, float] | None = None
    trajectory: Projection | None = None

    def project(self, points: Sequence[Tensor]) -> Projection:
        """Nearest places on the plane of vectors ``(P,)``, such as the iterates of a run, and what that hides."""
        return project(self.origin, self.directions, points)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        columns = ", ".join(f"{k} {v.min():.3g} ... {v.max():.3g}" for k, v in self.values.items())
        told = "" if self.explained is None else f"; explains {self.explained[0]:.1%} + {self.explained[1]:.1%}"
        grid = f"{len(self.x)} x {len(self.y)} points, one unit is {self.scale[0]:.3g} by {self.scale[1]:.3g}"
        return f"{grid}{told}; {columns}"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the vectors."""
        seen = None
        if self.trajectory is not None:
            lost = [float(v) if math.isfinite(v) else None for v in self.trajectory.lost]
            seen = {"xy": self.trajectory.xy.tolist(), "lost": lost}
        values = {
            k: [[float(c) if math.isfinite(c) else None for c in row] for row in v] for k, v in self.values.items()
        }
        return {
            "x": self.x.tolist(),
            "y": self.y.tolist(),
            "values": values,
            "marks": {name: list(at) for name, at in self.marks.items()},
            "scale": list(self.scale),
            "labels": list(self.labels),
            "explained": None if self.explained is None else list(self.explained),
            "trajectory": seen,
            "cost": self.cost.to_dict(),
        }

    def plot(self, ax: Any = None, *, of: str = "train_loss", trajectory: Sequence[Tensor] | None = None) -> Any:
        """Contours of a column, of a loss in equal ratios, with the marks and a trajectory; returns the axes.

        A trajectory's points are drawn the paler the more of their distance the plane hides.
        """
        from lrscope.landscape.pictures import draw_plane

        seen = self.trajectory if trajectory is None else self.project(trajectory)
        return draw_plane(self, ax, of=of, trajectory=seen)


def project(origin: Tensor, directions: tuple[Tensor, Tensor], points: Sequence[Tensor]) -> Projection:
    gram = gram_of(directions)
    xy, lost = [], []
    for point in points:
        if not isinstance(point, Tensor) or point.shape != origin.shape:
            came = tuple(point.shape) if isinstance(point, Tensor) else type(point).__name__
            raise ValueError(f"points: expected vectors of shape {tuple(origin.shape)}, got {came}")
        away = point.to(origin.device).double() - origin.double()
        at = np.linalg.solve(gram, [float(away @ d.double()) for d in directions])
        off = away - at[0] * directions[0].double() - at[1] * directions[1].double()
        distance = float(away.norm())
        xy.append(at)
        lost.append(float(off.norm()) / distance if distance > 0 else math.nan)
    return Projection(np.array(xy), np.array(lost))
