"""The loss on straight lines and other given paths between networks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lrscope.landscape.path import Kind, Path
from lrscope.landscape.points import Point
from lrscope.landscape.profile import Barrier, Profile
from lrscope.landscape.surface import OnProgress, Surface, Target


def barrier(
    target: Target,
    a: Point,
    b: Point,
    *,
    of: str = "train_loss",
    num_points: int = 25,
    num_batches: int | None = None,
    refresh: bool = True,
    on_progress: OnProgress | None = None,
) -> Barrier:
    """How far the loss rises on the straight line between two networks.

    Only parameters are interpolated, never buffers: BatchNorm's statistics are recomputed on the training set at
    every point, the ends included. Dropout is off and no L2 term is in the loss. The networks given, and the target's
    own, are left untouched.

    Args:
        target: A ``lrs.Task``: loss and metrics on its training and its evaluation set; or a ``lrs.Objective``: its
            loss on its batches, in its mode. An augmentation of the training set is drawn once and the same for all
            points.
        a, b: The networks: modules, state dicts, or flat vectors of trainable parameters, ``(P,)``.
        of: The column the barrier is of: ``"train_loss"``, ``"test_loss"``, and ``"train_error"``, ``"test_error"``
            where the task has a metric ``accuracy``. All columns are measured; ``result.on(...)`` gives the others.
        num_points: Points on the line, both ends included; 3 or more.
        num_batches: Training batches at most, for a task; all by default.
        refresh: ``False`` keeps BatchNorm's statistics as they are, which both networks must then share.
        on_progress: Called with passes over a set done and in all.

    Returns:
        :class:`Barrier`. Cost: a forward pass over all sets per point, and one more over the training set where
        statistics are recomputed. Where the model allows, points are computed many at a time.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        TaskError: Networks of different architecture, checkpoints without weights, or no data.

    Example:
        >>> import torch, lrscope as lrs
        >>> well = lambda net, x: ((net.weight**2 - 1) ** 2).sum() * x.mean()
        >>> objective = lrs.Objective(torch.nn.Linear(1, 1, bias=False), well, [torch.ones(4)])
        >>> found = lrs.landscape.barrier(objective, torch.tensor([-1.0]), torch.tensor([1.0]))
        >>> found.height, found.t
        (1.0, 0.5)
    """
    check_count("num_points", num_points, 3)  # between two ends alone nothing can rise
    surface = Surface(target, num_batches=num_batches, refresh=refresh)
    surface.require(of)
    path = Path(tuple(surface.read(a, b)), "chain", surface.dtype)
    return Barrier.read(along(surface, path, np.linspace(0, 1, num_points), on_progress=on_progress), of)


def profile(
    target: Target,
    points: Sequence[Point],
    *,
    kind: Kind = "chain",
    num_points: int = 61,
    num_batches: int | None = None,
    refresh: bool = True,
    on_progress: OnProgress | None = None,
) -> Profile:
    """Loss and metrics along the path through (``"chain"``) or guided by (``"bezier"``) the given networks.

    Two points make a straight line. Everything else as for :func:`barrier`.

    Args:
        points: Two or more networks.
        num_points: Places on the path, equally spaced in t, both ends included. Inner points of a chain are among
            them if ``num_points - 1`` is a multiple of the number of segments.
    """
    check_count("num_points", num_points, 2)
    if len(points) < 2:
        raise ValueError(f"points: a path has at least 2 ends, got {len(points)}")
    surface = Surface(target, num_batches=num_batches, refresh=refresh)
    path = Path(tuple(surface.read(*points)), kind, surface.dtype)
    return along(surface, path, np.linspace(0, 1, num_points), on_progress=on_progress)


def network_at(target: Target, point: Point, *, num_batches: int | None = None) -> nn.Module:
    """The network at a point of the landscape, such as ``curve(0.5)``, as a module of its own in eval mode.

    Its parameters are the point's, and BatchNorm's statistics are recomputed as for :func:`barrier`; whatever else a
    flat vector does not say (other buffers, frozen parameters) is that of the target's network.

    Args:
        target, point, num_batches: As for :func:`barrier`.

    Returns:
        A copy of the target's network. Cost: a pass over the training set where there is BatchNorm.
    """
    surface = Surface(target, num_batches=num_batches)
    (theta,) = surface.read(point, names=["point"])
    values = surface.network(theta)
    model = copy.deepcopy(surface.model).eval()
    tensors = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)
    return model


def along(surface: Surface, path: Path, t: np.ndarray, *, on_progress: OnProgress | None = None) -> Profile:
    values = surface.evaluate(path.at(t), on_progress=on_progress)
    return Profile.of(t, path.travelled(t), values)


def check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
