"""One- and two-dimensional slices of the loss: through networks, along a trajectory, in random directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrscope.errors import MeasurementError
from lrscope.landscape.barriers import check_count
from lrscope.landscape.directions import Directions, filter_normalised
from lrscope.landscape.path import Points, combined, gram_of
from lrscope.landscape.points import Point
from lrscope.landscape.profile import Profile
from lrscope.landscape.projection import Plane, project
from lrscope.landscape.surface import OnProgress, Surface, Target


def plane(
    target: Target,
    a: Point,
    b: Point,
    c: Point,
    *,
    num_points: int = 25,
    margin: float = 0.2,
    num_batches: int | None = None,
    on_progress: OnProgress | None = None,
) -> Plane:
    r"""The plane through three networks.

    .. math:: \hat u = (b - a) / \|b - a\|, \quad v = (c - a) - \langle c - a, \hat u \rangle \hat u,
              \quad \hat v = v / \|v\|

    The origin is a, x runs along :math:`\hat u` and y along :math:`\hat v`, both in Euclidean distance. What is
    evaluated and how is as for :func:`~lrscope.landscape.barrier`.

    Args:
        target, a, b, c: As for :func:`~lrscope.landscape.barrier`; c may be the bend of a curve from a to b.
        num_points: Of the grid, along each side.
        margin: Shown around the three, as a share of the larger side of their extent.
        num_batches: Training batches at most, for a task.
        on_progress: Called with passes over a set done and in all.

    Raises:
        As :func:`~lrscope.landscape.barrier`.
        MeasurementError: The three lie on a line, or two are equal.

    References:
        Garipov et al., 2018, arXiv 1802.10026; Gotmare et al., 2018, arXiv 1810.13243, figure 3.
    """
    surface = _surface(target, num_points, num_batches, margin)
    origin, second, third = surface.read(a, b, c)
    u, v = (p.double() - origin.double() for p in (second, third))
    length = float(u.norm())
    if length > 0:
        u = u / length
        v = v - (v @ u) * u
    if not (length > 0 and float(v.norm()) > 1e-6 * float((third.double() - origin.double()).norm())):
        raise MeasurementError(
            "a, b, c: they lie on one line (or two are the same) and span no plane; give a third off it"
        )
    directions = _as(surface, u), _as(surface, v / v.norm())
    seen = project(origin, directions, [origin, second, third])
    marks = {name: (float(x), float(y)) for name, (x, y) in zip("abc", seen.xy, strict=True)}
    return _measured(surface, origin, directions, seen.xy, margin, num_points, on_progress, marks=marks)


def pca_plane(
    target: Target,
    trajectory: Sequence[Point],
    *,
    num_points: int = 25,
    margin: float = 0.2,
    num_batches: int | None = None,
    on_progress: OnProgress | None = None,
) -> Plane:
    """The plane along which a trajectory varies most, laid through its last point.

    x and y are the first two principal components of the (centred) points, in Euclidean distance. ``explained`` says
    how much of the variance they hold, ``trajectory.lost`` how far off the plane each point is. Even a random walk in
    many dimensions shows 61 % and 15 % (Antognini & Sohl-Dickstein 2018, arXiv 1806.08805), and a smooth curve that
    looks like training, so high shares alone mean little.

    Args:
        target: As for :func:`~lrscope.landscape.barrier`.
        trajectory: Three or more networks in order, such as the checkpoints of a run.
        num_points, margin, num_batches, on_progress: As for :func:`plane`.

    Raises:
        As :func:`~lrscope.landscape.barrier`.
        MeasurementError: The points lie on a line.

    References:
        Li, Xu, Taylor, Studer, Goldstein, Visualizing the Loss Landscape of Neural Nets, 2018, arXiv 1712.09913
        (optimisation paths).
    """
    trajectory = list(trajectory)
    if len(trajectory) < 3:
        raise ValueError(f"trajectory: a plane needs 3 points or more, got {len(trajectory)}")
    surface = _surface(target, num_points, num_batches, margin)
    names = [f"trajectory[{i}]" for i in range(len(trajectory))]
    points = surface.read(*trajectory, names=names)
    origin = points[-1]
    gram = gram_of([p.double() - origin.double() for p in points])
    centring = np.eye(len(points)) - 1 / len(points)
    variance, Q = np.linalg.eigh(centring @ gram @ centring)
    if not variance[-2] > 1e-12 * variance[-1]:
        raise MeasurementError(
            "trajectory: its points lie on one line, so they span no plane; use lrs.landscape.line"
        )
    coefficients = centring @ Q[:, [-1, -2]]
    first, second = (combined([p.double() for p in points], c.tolist()) for c in coefficients.T)
    directions = _as(surface, first / first.norm()), _as(surface, second / second.norm())
    seen = project(origin, directions, points)
    share = variance[[-1, -2]] / variance.clip(min=0).sum()
    explained = float(share[0]), float(share[1])
    marks = {"start": tuple(seen.xy[0].tolist()), "end": (0.0, 0.0)}
    labels = (f"first principal component ({explained[0]:.0%})", f"second ({explained[1]:.0%})")
    return _measured(
        surface, origin, directions, seen.xy, margin, num_points, on_progress,
        marks=marks, labels=labels, explained=explained, trajectory=seen,
    )  # fmt: skip


def random_plane(
    target: Target,
    at: Point,
    *,
    extent: float = 1.0,
    num_points: int = 25,
    seed: int = 0,
    num_batches: int | None = None,
    on_progress: OnProgress | None = None,
) -> Plane:
    """The plane of two random directions around a network, each filter scaled to the size of the network's own.

    One unit of x or y moves every filter by its own norm, in another direction, so pictures of different networks can
    be compared; ``scale`` says what that is in Euclidean distance.

    Args:
        target, at: As for :func:`~lrscope.landscape.barrier`.
        extent: The plane reaches from ``-extent`` to ``extent``.
        num_points: Of the grid, along each side.
        seed: Of the directions.
        num_batches, on_progress: As for :func:`plane`.

    References:
        Li et al., 2018, arXiv 1712.09913.
    """
    surface = _surface(target, num_points, num_batches, 0.0)
    (theta,) = surface.read(at, names=["at"])
    found = filter_normalised(surface.layout, theta, 2, seed)
    corners = np.array([[-1.0, -1.0], [1.0, 1.0]]) * _positive("extent", extent)
    labels = ("first random direction, in filter norms", "second random direction, in filter norms")
    directions = found.vectors[0], found.vectors[1]
    marks = {"network": (0.0, 0.0)}
    return _measured(surface, theta, directions, corners, 0.0, num_points, on_progress, marks=marks, labels=labels)


def line(
    target: Target,
    a: Point,
    b: Point,
    *,
    beyond: float = 0.0,
    num_points: int = 61,
    num_batches: int | None = None,
    on_progress: OnProgress | None = None,
) -> Profile:
    """The loss on the straight line through two networks, also ``beyond`` them, in units of their distance.

    A :class:`~lrscope.landscape.Profile` from ``t = -beyond`` to ``1 + beyond``.
    """
    surface = _surface(target, num_points, num_batches, beyond)
    first, second = surface.read(a, b)
    t = np.linspace(-beyond, 1 + beyond, num_points)
    distance = float((second.double() - first.double()).norm())
    values = surface.evaluate(
        Points((first, second), np.stack([1 - t, t], 1), surface.dtype), on_progress=on_progress
    )
    return Profile.of(t, (t - t[0]) * distance, values)


def random_line(
    target: Target,
    at: Point,
    *,
    extent: float = 1.0,
    num_points: int = 61,
    seed: int = 0,
    num_batches: int | None = None,
    on_progress: OnProgress | None = None,
) -> Profile:
    """The loss along one random filter-normalised direction, from ``t = -extent`` to ``extent``.

    ``t`` counts filter norms, as in :func:`random_plane`; ``travelled`` is Euclidean, from the first point on.
    """
    surface = _surface(target, num_points, num_batches, 0.0)
    (theta,) = surface.read(at, names=["at"])
    found = filter_normalised(surface.layout, theta, 1, seed)
    t = np.linspace(-1, 1, num_points) * _positive("extent", extent)
    weights = np.stack([np.ones_like(t), t], 1)
    values = surface.evaluate(Points((theta, found.vectors[0]), weights, surface.dtype), on_progress=on_progress)
    return Profile.of(t, (t - t[0]) * found.norms[0], values)


def random_directions(target: Target, at: Point, *, count: int = 2, seed: int = 0) -> Directions:
    """``count`` random directions at a network, filter by filter as long as the network's own filters.

    Normal draws; each slice along the first dimension of a weight (a convolution's filter, a unit's incoming weights,
    a token's embedding) is scaled to the norm of the same slice of the network. Vectors and scalars (biases, scales
    of norms) are not moved.

    References:
        Li et al., 2018, arXiv 1712.09913.
    """
    check_count("count", count, 1)
    surface = Surface(target)
    (theta,) = surface.read(at, names=["at"])
    return filter_normalised(surface.layout, theta, count, seed)


def _surface(target: Target, num_points: int, num_batches: int | None, margin: float) -> Surface:
    check_count("num_points", num_points, 2)
    if not (isinstance(margin, (int, float)) and math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin, beyond: expected a finite number of 0 or more, got {margin!r}")
    return Surface(target, num_batches=num_batches)


def _measured(
    surface: Surface,
    origin: Tensor,
    directions: tuple[Tensor, Tensor],
    shown: np.ndarray,
    margin: float,
    num_points: int,
    on_progress: OnProgress | None,
    *,
    marks: dict[str, Any],
    labels: tuple[str, str] = ("distance from a towards b", "distance from that line"),
    **more: Any,
) -> Plane:
    """Evaluate the grid that shows the places ``shown``, ``(K, 2)``, and a margin around them."""
    low, high = shown.min(axis=0), shown.max(axis=0)
    room = np.full(2, margin * (high - low).max())
    x, y = (np.linspace(low[i] - room[i], high[i] + room[i], num_points) for i in (0, 1))
    X, Y = np.meshgrid(x, y)
    weights = np.stack([np.ones(X.size), X.ravel(), Y.ravel()], axis=1)
    values = surface.evaluate(Points((origin, *directions), weights, surface.dtype), on_progress=on_progress)
    grids = {name: column.reshape(X.shape) for name, column in values.means.items()}
    scale = float(directions[0].double().norm()), float(directions[1].double().norm())
    return Plane(origin, directions, x, y, grids, marks, scale, labels, values.cost, **more)


def _as(surface: Surface, direction: Tensor) -> Tensor:
    """In the precision that points are combined in."""
    return direction.to(torch.promote_types(surface.dtype, torch.float32))


def _positive(name: str, value: float) -> float:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")
    return float(value)
