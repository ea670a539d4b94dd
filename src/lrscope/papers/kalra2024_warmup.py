"""Kalra & Barkeshli 2024, Why Warmup the Learning Rate?, arXiv 2406.09405: its claims about warmups of SGD.

Full-batch gradient descent on 500 of scikit-learn's digits, fully connected ReLU networks of depth 4, half the
squared error averaged over classes; learning rates in units of c = lr * sharpness at the start. Every function
returns what it measured and judges nothing; the criterion that its docstring names is held by tests/unit/papers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope.curvature import sharpness
from lrscope.objective import Objective
from lrscope.papers import kalra2024
from lrscope.records import Run
from lrscope.schedules import Constant, FeedbackSchedule, Linear, Schedule
from lrscope.stability import CatapultWarmup, SharpnessProbe, critical_lr, find_jump, warmup_from_critical
from lrscope.tasks import Batches, Task
from lrscope.training import train

Start = Literal["sp", "zero", "mup"]
"""Standard parameterisation (starts sharp), the same with a last layer of zeros, or muP (both start flat)."""
NUM_TRAIN = 500


class Net(nn.Module):
    """ReLU layers of one width, parameterised as the paper does."""

    def __init__(self, width: int = 64, depth: int = 4, start: Start = "sp") -> None:
        super().__init__()
        sizes = [64] + [width] * (depth - 1) + [10]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        kalra2024._standard(self, cast(nn.Linear, self.layers[-1]))
        self.scales = [1.0] * depth
        if start == "zero":
            nn.init.zeros_(cast(nn.Linear, self.layers[-1]).weight)
        elif start == "mup":  # variance 2 / fan_out and 1 / fan_in, times these
            for layer in list(self.layers)[:-1]:
                layer = cast(nn.Linear, layer)
                layer.weight.data *= (layer.in_features / layer.out_features) ** 0.5
            self.scales = [(b / a) ** 0.5 for a, b in pairwise(sizes[:-1])] + [width**-0.5]

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = zip(self.layers, self.scales, strict=True)
        for layer, scale in hidden:
            x = F.relu(scale * layer(x))
        return last[1] * last[0](x)


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the squared error, averaged over examples and classes."""
    x, y = batch
    return 0.5 * F.mse_loss(model(x), F.one_hot(y, 10).to(x.dtype))


def task(width: int = 64, start: Start = "sp", dtype: torch.dtype = torch.float32) -> Task:
    """The first 500 images of :func:`lrscope.papers.kalra2024.task` as one batch."""
    x, y = (part[:NUM_TRAIN] for part in cast(Batches, kalra2024.task(kalra2024.PlainMLP).train).data)
    return Task(partial(_build, width, start, dtype), squared, [(x.to(dtype), y)], name=f"digits-fcn-{start}")


def _build(width: int, start: Start, dtype: torch.dtype, seed: int) -> nn.Module:  # noqa: ARG001 - seeded globally
    return Net(width, start=start).to(dtype)


def linear(peak: float, steps: int) -> Schedule:
    """Warmup whose k-th update, k = 1 to ``steps``, has ``peak * k / steps``; then constant."""
    return Linear(peak / steps, peak, steps - 1).then(Constant(peak)) if steps > 1 else Constant(peak)


def start_sharpness(problem: Task, seed: int) -> float:
    return sharpness(problem.objective(seed), tol=1e-4, max_matvecs=2000).value


def _run(
    problem: Task, schedule: Schedule | FeedbackSchedule, steps: int, seed: int, every: int | None = None
) -> Run:
    probes = [] if every is None else [SharpnessProbe(problem, every=every)]
    return train(problem, "sgd(momentum=0)", schedule, steps, probes=probes, seed=seed)


def _final_loss(run: Run) -> float:
    return float(run["loss"].value[-1]) if run.status == "finished" else math.inf


@dataclass(frozen=True)
class Crossed:
    """When a warmup met the threshold, and how violently.

    Attributes:
        warmup, seed: What ran.
        step: First step, counted from 1, at which the sharpness was above ``2 / lr``; ``inf`` if never.
        jump: Largest ratio of the losses after and before one step.
    """

    warmup: int
    seed: int
    step: float
    jump: float


def crossings(
    *, c: float = 128.0, warmups: Sequence[int] = (16, 64, 256), seeds: Sequence[int] = (0, 1, 2), after: int = 20
) -> list[Crossed]:
    """Whether a longer warmup meets the threshold later and more mildly, for a network that starts sharp (#8).

    Criterion of the fact sheet: the step of the crossing does not fall with the warmup, and the jumps at warmups of
    64 and 256 are less than 0.6 times that at 16.
    """
    problem, found = task(), []
    for seed in seeds:
        peak = c / start_sharpness(problem, seed)
        for warmup in warmups:
            run = _run(problem, linear(peak, warmup), warmup + after, seed, every=1)
            above = run["headroom"].step[run["headroom"].value > 1]
            losses = run["loss"].value
            jump = float(np.max(losses[1:] / losses[:-1]))
            found.append(Crossed(warmup, seed, float(above[0]) + 1 if len(above) else math.inf, jump))
    return found


@dataclass(frozen=True)
class Searched:
    """A line search beside a dense scan.

    Attributes:
        start, width, seed, delta: The network, and the share by which the loss may rise.
        ratio: Learning rate found, over that where the loss of a dense scan first rises.
        c: The true one, times the sharpness.
        forwards: Forward passes of the search.
    """

    start: Start
    width: int
    seed: int
    delta: float
    ratio: float
    c: float
    forwards: int


def searches(
    nets: Sequence[tuple[Start, int]] = (("sp", 64), ("sp", 256), ("sp", 512), ("zero", 64), ("mup", 64)),
    *,
    deltas: Sequence[float] = (0.1, 0.01),
    seeds: Sequence[int] = (0, 1, 2),
    fineness: float = 1.002,
) -> list[Searched]:
    """Whether forward passes alone find the critical learning rate (#9).

    The truth is the first rise of the one-step loss on a grid of ratio ``fineness``. Criterion: a ratio of 0.99 to
    1.2 for delta 0.1 and to 1.03 for 0.01, with at most 25 passes.
    """
    found = []
    for start, width in nets:
        problem = task(width, start)
        for seed in seeds:
            objective = problem.objective(seed)
            model = objective.model
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            (batch,) = objective.batches
            squared(model, batch).backward()
            true, sharp = _first_rise(objective, fineness), sharpness(objective, max_matvecs=2000).value
            for delta in deltas:
                jump = find_jump(objective, optimizer, smallest=1e-4, largest=1e6, delta=delta)
                row = Searched(start, width, seed, delta, float(jump.lr / true), float(true * sharp), jump.forwards)
                found.append(row)
    return found


def _first_rise(objective: Objective, fineness: float) -> float:
    theta = objective.point()
    loss, grad = objective.loss_and_grad(theta)
    lr = 1e-3
    while objective.loss(theta - lr * grad) <= loss:
        lr *= 1.05
    low = lr / 1.05  # a loss that rises between these and falls again is looked for no closer
    return next(x for x in low * fineness ** np.arange(100) if objective.loss(theta - float(x) * grad) > loss)


@dataclass(frozen=True)
class Saved:
    """A warmup from the critical learning rate beside one from 0.

    Attributes:
        c, seed: The peak times the sharpness at the start.
        reached, formula: Updates until the peak: in the run, and ``max(1, T (1 - critical / peak))``.
        saved: Steps saved, net of the search.
        loss_ratio: Final losses, that of the warmup from the critical rate over the other.
    """

    c: float
    seed: int
    reached: int
    formula: float
    saved: float
    loss_ratio: float


def from_critical(
    *,
    cs: Sequence[float] = (8.0, 32.0, 64.0),
    warmup: int = 64,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 600,
) -> list[Saved]:
    """Whether a warmup that starts at the critical learning rate saves steps at no cost (#10).

    Criterion: it reaches the peak at the step of the formula, +-1, and ends at a loss of at most 1.3 times that of
    the other.
    """
    problem, found = task(), []
    for seed in seeds:
        objective = problem.objective(seed)
        critical = critical_lr(objective, "sgd(momentum=0)", curvature=False)
        sharp = start_sharpness(problem, seed)
        for c in cs:
            short = warmup_from_critical(critical, c / sharp, warmup)
            ours = _run(problem, short.schedule.then(Constant(short.peak)), steps, seed)
            theirs = _run(problem, linear(short.peak, warmup), steps, seed)
            reached = int(np.flatnonzero(ours["lr"].value >= short.peak * (1 - 1e-12))[0])
            formula = max(1.0, warmup * (1 - critical.lr / short.peak))
            ratio = _final_loss(ours) / _final_loss(theirs)
            found.append(Saved(c, seed, max(reached, 1), formula, short.saved_steps, ratio))
    return found


@dataclass(frozen=True)
class Catapulted:
    """A persistent catapult beside a linear warmup.

    Attributes:
        c, delta, seed: The target times the sharpness at the start; the size of a catapult.
        needed: Whether training at the target from the first step diverges.
        reached: Updates until the target; ``inf`` if never.
        searches, forwards: What the searches cost.
        largest: Largest loss over the first one.
        sharpness_ratio, loss_ratio: Last values over those of the linear warmup.
        sharpness_left: Last sharpness over that at the start.
    """

    c: float
    delta: float
    seed: int
    needed: bool
    reached: float
    searches: int
    forwards: float
    largest: float
    sharpness_ratio: float
    loss_ratio: float
    sharpness_left: float


def catapults(
    *,
    cs: Sequence[float] = (32.0, 64.0),
    deltas: Sequence[float] = (0.1, 0.01),
    warmup: int = 64,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 600,
) -> list[Catapulted]:
    """Whether persistent catapults reach a peak that diverges without a warmup, in a handful of steps (#11).

    Criterion: at most 10 steps; the loss never above 1.2 times the first; last sharpness and loss within a factor of
    1.5 of those of a linear warmup of 64 steps.
    """
    problem, found = task(), []
    for seed in seeds:
        sharp = start_sharpness(problem, seed)
        for c in cs:
            peak = c / sharp
            at_once = _run(problem, Constant(peak), 50, seed)
            theirs = _run(problem, linear(peak, warmup), steps, seed, every=steps - 1)
            for delta in deltas:
                ours = _run(problem, CatapultWarmup(peak, delta, over=1), steps, seed, every=steps - 1)
                jumps = [event for event in ours.events if event.kind == "measured"]
                there = np.flatnonzero(ours["lr"].value >= peak)
                losses, sharpnesses = ours["loss"].value, (ours["sharpness"].value[-1], theirs["sharpness"].value[-1])
                found.append(
                    Catapulted(
                        c,
                        delta,
                        seed,
                        at_once.status == "diverged",
                        float(there[0]) + 1 if len(there) else math.inf,
                        len(jumps),
                        sum(event.detail["forwards"] for event in jumps),
                        float(losses.max() / losses[0]),
                        float(sharpnesses[0] / sharpnesses[1]),
                        _final_loss(ours) / _final_loss(theirs),
                        float(sharpnesses[0] / sharp),
                    )
                )
    return found
