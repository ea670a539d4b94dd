"""Train a copy of a live model for a while, and look at what its steps do; the live one does not notice."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lrscope.errors import MeasurementError
from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Batch, Objective
from lrscope.optimizers.clone import clone_optimizer
from lrscope.params import groups_of
from lrscope.records import Cost
from lrscope.tasks import BatchStream

ALPHAS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Places along a step, in steps, at which the full loss is read."""


@dataclass(frozen=True)
class Probed:
    """What steps of training do to the full loss.

    Attributes:
        minimum: Median over steps of where along the step the full loss is lowest, one of :data:`ALPHAS`.
        rises: Share of the steps that raise the full loss.
        full_cosine: Mean cosine of the full gradients before and after a step.
        batch_cosine: The same, of the gradients of the step's own batch.
        num_steps: Steps that were probed.
    """

    minimum: float
    rises: float
    full_cosine: float
    batch_cosine: float
    num_steps: int


class Trial:
    """A copy of a model and its optimizer that trains on.

    Args:
        objective: The full loss; its model is copied.
        optimizer: Copied with its state.
        train: Batches of an epoch, which can be iterated again and again.
        seed: Decides the order of the batches and the model's own draws.
        factor: On all learning rates.

    Attributes:
        objective: The full loss of the copy.
        cost: So far, in evaluations of one training batch.

    Raises:
        MeasurementError: The model or the optimizer cannot be copied, or the model is spread over processes.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        train: Iterable[Batch],
        *,
        seed: int = 0,
        factor: float = 1.0,
    ) -> None:
        if objective.sharded or objective.ranks.size > 1:
            raise MeasurementError(
                "objective: copies of a model spread over several processes cannot be trained beside it; measure on "
                "one process, with the plain model"
            )
        groups_of(optimizer, objective.model)  # refuses an optimizer of another model
        try:
            model = copy.deepcopy(objective.model)
        except Exception as error:  # a module may be anybody's
            raise MeasurementError(f"model: {type(objective.model).__name__} cannot be copied ({error})") from error
        pairs = zip(objective.model.parameters(), model.parameters(), strict=True)
        moved: dict[nn.Parameter, nn.Parameter] = dict(pairs)
        self.optimizer = clone_optimizer(optimizer, moved)
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * factor
        self.model = model
        self.objective = Objective(
            model, objective.loss_fn, list(objective.batches), count=objective.count, mode=objective.mode
        )
        self._stream = BatchStream(train, seed)
        self._seed, self._updates = seed, 0
        self._batch_gradients = 0
        self._examples = sum(objective.count(b) for b in objective.batches)
        self._batch_size = 0

    @property
    def cost(self) -> Cost:
        full = self._examples / max(self._batch_size, 1)
        spent = self.objective.spent
        gradients = spent.gradients * full + self._batch_gradients
        return Cost(spent.forwards * full, gradients, spent.products * full, self._updates)

    def epochs(self, num: int) -> list[float]:
        """Full losses now and after each of ``num`` epochs; up to the first that is not finite."""
        losses = [self.objective.loss()]
        for _ in range(num):
            if not math.isfinite(losses[-1]):
                break
            for batch in self._stream.epoch():
                self._update(batch)
            self._stream.epoch_index += 1
            losses.append(self.objective.loss())
        return losses

    def probe(self, steps: int) -> Probed:
        """Make ``steps`` more updates and look along each."""
        lowest, rises, full_cosines, batch_cosines = [], 0, [], []
        theta, full = self.objective.point(), None
        for _ in range(steps):
            batch = next(self._stream)
            if full is None:
                full = self.objective.grad(theta)
            before = self._gradient(batch)
            self._update(batch)
            after = self.objective.point()
            line = [self.objective.loss(theta + a * (after - theta)) for a in ALPHAS]
            line = [x if math.isfinite(x) else math.inf for x in line]
            lowest.append(ALPHAS[line.index(min(line))])
            rises += line[ALPHAS.index(1.0)] > line[0]
            ahead = self.objective.grad(after)
            full_cosines.append(_cosine(full, ahead))
            batch_cosines.append(_cosine(before, self._gradient(batch)))
            theta, full = after, ahead
        full_cosine, batch_cosine = (float(np.nanmean(c)) for c in (full_cosines, batch_cosines))
        return Probed(statistics.median(lowest), rises / steps, full_cosine, batch_cosine, steps)

    def _gradient(self, batch: Batch) -> Tensor:
        """Of one batch, ``(P,)``, with the mode and the draws of :class:`~lrscope.objective.Objective`."""
        self._batch_gradients += 1
        return self.objective.on([batch]).grad(self.objective.point())

    def _update(self, batch: Batch) -> None:
        self._batch_size = self._batch_size or self.objective.count(batch)
        with isolated_rng(self._seed + self._updates), mode_of(self.model, training=True):
            self.optimizer.zero_grad()
            with torch.enable_grad():
                self.objective.loss_fn(self.model, batch).backward()
            try:
                self.optimizer.step()
            except Exception as error:  # an optimizer may be anybody's
                raise MeasurementError(
                    f"optimizer: {type(self.optimizer).__name__}.step fails on a copy ({error}); use a first-order "
                    "optimizer that needs no closure"
                ) from error
        self._updates += 1
        self._batch_gradients += 1


def _cosine(a: Tensor, b: Tensor) -> float:
    norms = float(a.norm()) * float(b.norm())
    return float(a @ b) / norms if norms > 0 else math.nan
