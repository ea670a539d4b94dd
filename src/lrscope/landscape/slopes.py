"""Gradient and curvature of the training loss along a path."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrscope.curvature import sharpness
from lrscope.errors import TaskError
from lrscope.landscape.barriers import check_count
from lrscope.landscape.connect import Curve
from lrscope.landscape.path import Path
from lrscope.landscape.points import Point
from lrscope.landscape.profile import Profile
from lrscope.landscape.surface import OnProgress, Surface, Target
from lrscope.objective import Objective
from lrscope.records import Cost
from lrscope.tasks import Task


def curvature(
    target: Target,
    path: Curve | Path | Sequence[Point],
    *,
    num_points: int = 11,
    num_batches: int = 4,
    tol: float = 1e-2,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Profile:
    """Gradient norm and sharpness of the training loss at places along a path.

    Of a task the loss is that of ``num_batches`` training batches as training sees it, in train mode (BatchNorm with
    the batch's statistics) but without dropout; an objective is taken as it is. So ``"train_loss"`` here may differ
    from that of :func:`~lrscope.landscape.barrier`.

    Args:
        target: As for :func:`~lrscope.landscape.barrier`.
        path: A curve, or networks that a chain of straight lines leads through.
        num_points: Places, both ends included.
        num_batches: Training batches of a task.
        tol: Relative residual of the sharpness; see :func:`lrscope.sharpness`.
        seed: Of the solves' random vectors.
        on_progress: Called with places done and in all.

    Returns:
        :class:`Profile` with the columns ``train_loss``, ``gradient_norm``, ``sharpness`` and
        ``sharpness_residual``. Cost: per place three gradients and the products of a solve that starts from the last
        place's eigenvector; counted in evaluations over the ``num_batches`` together.

    Raises:
        As :func:`~lrscope.landscape.barrier` and :func:`lrscope.sharpness`.
    """
    check_count("num_points", num_points, 2)
    check_count("num_batches", num_batches, 1)
    if not isinstance(path, (Curve, Path)) and (not isinstance(path, (list, tuple)) or len(path) < 2):
        raise TypeError(f"path: expected a curve or a list of two networks or more, got {_came(path)}")
    surface = Surface(target)
    if isinstance(path, (Curve, Path)):
        path = path.path if isinstance(path, Curve) else path
        surface.read(path(0.0))
    else:
        path = Path(tuple(surface.read(*path)), "chain", surface.dtype)
    objective = _objective(surface, target, num_batches)
    started, spent = time.perf_counter(), objective.spent
    t = np.linspace(0, 1, num_points)
    rows: list[tuple[float, float, float, float]] = []
    start: Tensor | None = None
    for i, theta in enumerate(path.at(t)):
        loss, grad = objective.loss_and_grad(theta)
        found = sharpness(objective, theta, tol=tol, start=start, seed=seed)
        start = found.vectors[:, 0] if found.vectors.ndim == 2 else found.vectors
        rows.append((loss, float(grad.double().norm()), float(found.value), float(found.residual)))
        if on_progress is not None:
            on_progress(i + 1, num_points)
    names = ("train_loss", "gradient_norm", "sharpness", "sharpness_residual")
    values = {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    cost = objective.spent - spent + Cost(seconds=time.perf_counter() - started)
    return Profile(t, path.travelled(t), values, {}, {}, cost)


def _came(path: Any) -> str:
    return f"{len(path)}" if isinstance(path, (list, tuple)) else type(path).__name__


def _objective(surface: Surface, target: Target, num_batches: int) -> Objective:
    own = {**dict(surface.model.named_buffers()), **dict(surface.model.named_parameters())}
    differing = [
        name
        for name, tensor in surface.rest.items()
        if name not in surface.statistics.names
        and tensor.is_floating_point()
        and not torch.equal(tensor, own[name].detach())
    ]
    if isinstance(target, Task):
        with torch.no_grad():  # the model is our own
            for name in differing:
                own[name].copy_(surface.rest[name])
        return Objective(surface.model, target.loss_fn, target.batches(num_batches), count=target.count)
    if differing:
        raise TaskError(
            f"path: {differing[0]!r} is not trained and differs from that of the objective's model, whose value its "
            "gradient is taken with; make the Objective from one of the networks"
        )
    return target
