"""Full-batch gradient descent of many replicas side by side, as most checks need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lrscope.curvature import sharpness
from lrscope.isolation import isolated_rng, mode_of
from lrscope.optimizers import FunctionalOptimizer, OptimizerSpec
from lrscope.tasks import Task
from lrscope.training.program import Program, examine


class Descent(NamedTuple):
    """What came out.

    Attributes:
        losses: Before each update, ``(steps, N)``.
        thetas: Parameters after the number of updates asked for, ``(len(at), N, P)``.
    """

    losses: Tensor
    thetas: Tensor


def descend(task: Task, seeds: Sequence[int], rates: Tensor, *, at: Sequence[int] | None = None) -> Descent:
    """Train N replicas on the task's one batch; whatever diverges does so to the end.

    Args:
        task: With a single training batch.
        seeds: Of the N initialisations.
        rates: Learning rates, ``(steps, N)``.
        at: Numbers of updates after which to keep the parameters; the last one unless given.
    """
    (batch,) = task.train
    program = Program(task, seeds, examine(task, seeds[0], batch))
    rule = FunctionalOptimizer(OptimizerSpec.parse("sgd(momentum=0)"))
    state, kept = rule.init(program.theta), []
    keep = [len(rates)] if at is None else sorted(at)
    rates = rates.to(program.theta)[:, :, None]
    losses = torch.empty(rates.shape[:2], dtype=program.theta.dtype)
    with isolated_rng(0), mode_of(program.model, training=True):
        for step in range(len(rates)):
            if step in keep:
                kept.append(program.theta.clone())
            losses[step], grads = program.gradients(batch, None)
            rule.update(program.theta, grads, rates[step], state)
    if len(rates) in keep:
        kept.append(program.theta)
    return Descent(losses, torch.stack(kept))


def constant(rates: Sequence[float], steps: int) -> Tensor:
    """The same rate for each replica at every step, ``(steps, N)``."""
    return torch.tensor(rates, dtype=torch.float64).expand(steps, -1)


def sharpness_of(task: Task, seed: int, theta: Tensor | None = None) -> float:
    """Largest eigenvalue of the Hessian at theta, or at the start that belongs to ``seed``."""
    return sharpness(task.objective(seed), theta, tol=1e-3, max_matvecs=2000).value
