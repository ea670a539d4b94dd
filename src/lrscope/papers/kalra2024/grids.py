"""Up to which peak learning rate a network trains: whole grids of runs as one batched program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrscope.isolation import isolated_rng, mode_of
from lrscope.optimizers import FunctionalOptimizer, OptimizerSpec
from lrscope.schedules import Cosine, Linear, Schedule
from lrscope.tasks import BatchStream, Task
from lrscope.training.evaluate import weighted_means
from lrscope.training.feed import Feed
from lrscope.training.program import Program, examine

PEAKS = tuple(1e-3 * 2**x for x in range(2, 12))
"""Peak learning rates 0.004 to 2.048, in factors of 2."""


def schedule(peak: float, warmup: int, steps: int) -> Schedule:
    """Linear warmup whose k-th update, k = 1 to ``warmup``, has ``peak * k / warmup``; then cosine to a tenth.

    A warmup of 1 is none.
    """
    decay = Cosine(1.0, 0.1, steps - warmup)
    shape = Linear(1 / warmup, 1.0, warmup - 1).then(decay) if warmup > 1 else decay
    return peak * shape


@dataclass(frozen=True)
class Grid:
    """How training ended for each peak learning rate and seed.

    Attributes:
        optimizer, warmup: What trained, and its warmup in steps.
        peaks: Peak learning rates, ``(n,)``, rising.
        accuracy: On held-out images after the last update, ``(n, seeds)``.
        finite: Whether every loss and every parameter at the end was a finite number, ``(n, seeds)``.
        largest_loss: Over the whole run, ``(n, seeds)``.
    """

    optimizer: str
    warmup: int
    peaks: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    finite: NDArray[np.bool_]
    largest_loss: NDArray[np.float64]

    def last_good(self, level: float = 0.9) -> float:
        """Largest peak whose mean accuracy over seeds is above ``level``; 0 if none is."""
        good = self.peaks[self.accuracy.mean(1) > level]
        return float(good[-1]) if len(good) else 0.0

    def last_good_by_seed(self, level: float = 0.9) -> list[float]:
        """The same for each seed alone."""
        one = [self.peaks[column > level] for column in self.accuracy.T]
        return [float(good[-1]) if len(good) else 0.0 for good in one]

    def at(self, peak: float) -> float:
        """Mean accuracy over seeds at one of the peaks."""
        (found,) = np.flatnonzero(np.isclose(self.peaks, peak, rtol=1e-6))
        return float(self.accuracy[found].mean())


def grid(
    task: Task,
    optimizer: OptimizerSpec | str,
    *,
    warmup: int = 1,
    peaks: Sequence[float] = PEAKS,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 400,
) -> Grid:
    """Train every peak and seed to the end, whatever the loss does on the way; each seed is one batched program.

    :func:`lrscope.replicas` would stop a run once it counts as diverged; whether Adam ever diverges is the question
    here. A seed decides initialisation, data order and RI-Adam's draw. Cost: ``len(peaks) * len(seeds) * steps``
    gradients.
    """
    spec = OptimizerSpec.parse(optimizer)
    rates = np.stack([schedule(peak, warmup, steps).values(steps) for peak in peaks], 1)
    ends = []
    for seed in seeds:
        its_own = replace(spec, seed=seed) if spec.name == "riadam" else spec
        ends.append(_ends(task, its_own, torch.from_numpy(rates), seed))
    accuracies, finite, largest = (np.stack(column, 1) for column in zip(*ends, strict=True))
    return Grid(spec.name, warmup, np.asarray(peaks, dtype=float), accuracies, finite, largest)


def _ends(task: Task, spec: OptimizerSpec, rates: Tensor, seed: int) -> tuple[NDArray[Any], ...]:
    """Accuracy, finiteness and largest loss of one run per column of ``rates``, ``(steps, n)``."""
    seeds = [seed] * rates.shape[1]
    feed = Feed.of(task, seeds)
    program = Program(task, seeds, examine(task, seed, next(BatchStream(task.train, seed))))
    rule = FunctionalOptimizer(spec)
    state = rule.init(program.theta)
    rates = rates.to(program.theta)[:, :, None]
    losses = torch.empty(rates.shape[:2])
    with isolated_rng(seed), mode_of(program.model, training=True):
        for step in range(len(rates)):
            losses[step], grads = program.gradients(*feed.next(seeds))
            rule.update(program.theta, grads, rates[step], state)
    with torch.no_grad(), isolated_rng(0), mode_of(program.model, training=False):
        means, _ = weighted_means(task, program.measure)
    finite = losses.isfinite().all(0) & program.theta.isfinite().all(1)
    return means["accuracy"].numpy(), finite.numpy(), losses.amax(0).numpy()
