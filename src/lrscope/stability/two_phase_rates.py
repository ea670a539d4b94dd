"""The learning rates of a two-phase training, measured: the largest that trains, and the largest that optimises."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lrscope.errors import MeasurementError
from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Batch, Objective
from lrscope.records import Cost
from lrscope.schedules import Constant, TwoPhase
from lrscope.stability.regime import Regime
from lrscope.tasks import BatchStream, Task
from lrscope.training import Cell, run_cells

GRID = tuple(2.0**k for k in range(-9, 5))
"""Learning rates 0.002 to 16, in factors of 2."""
RISES = 0.05
"""Share of epochs after which the training loss may rise in the second phase (our reading of the paper)."""
COLLAPSED = 0.5
"""A rate whose loss fell by less than this share of the best fall of the grid has not trained, though finite."""


@dataclass(frozen=True)
class TwoPhaseRates:
    """Learning rates for :class:`~lrscope.schedules.TwoPhase`, and what they rest on.

    Attributes:
        large: Largest rate of the grid that trains without momentum.
        small: Largest rate with momentum after which, from where the first phase ended, the training loss rises in at
            most 5 % of the epochs.
        momentum: Of the second phase.
        losses: For each rate tried in the first phase, the mean of the last tenth of its losses; ``inf`` where it
            diverged.
        rises: For each rate tried in the second phase, the share of epochs after which the loss rose.
        first_loss: Before training.
        epochs: Epochs of each trial of the second phase.
        cost: In evaluations of one training batch.
    """

    large: float
    small: float
    momentum: float
    losses: Mapping[float, float]
    rises: Mapping[float, float]
    first_loss: float
    epochs: int
    cost: Cost

    def schedule(self, switch: str | float = "plateau", steps: int | None = None) -> TwoPhase:
        """The two phases at these rates, for an optimizer of base rate 1."""
        return TwoPhase(self.large, self.small, switch, steps, self.momentum)

    def __str__(self) -> str:
        return (
            f"largest learning rate that trains without momentum: {self.large:.3g}; largest with momentum "
            f"{self.momentum:g} at which the loss then falls steadily: {self.small:.3g} (it rose after "
            f"{self.rises[self.small]:.0%} of {self.epochs} epochs)"
        )


def two_phase_rates(
    task: Task,
    *,
    grid: Sequence[float] = GRID,
    steps: int = 300,
    epochs: int = 20,
    momentum: float = 0.9,
    seed: int = 0,
) -> TwoPhaseRates:
    """Measure the learning rates of both phases, on models of its own.

    The first phase: every rate of the grid trains at once without momentum, for ``steps`` updates; the large rate is
    the largest that neither diverged nor collapsed. From where it ended, the rates below it train with momentum,
    from the largest down, until one raises the full training loss after at most 5 % of the epochs.

    Args:
        task: What is trained; its epoch must end.
        grid: Learning rates, positive.
        steps: Updates of each run of the first phase.
        epochs: Of each trial of the second phase; 20 is the fewest that can tell 5 %.
        momentum: Of the second phase.
        seed: Decides initialisation and data order.

    Returns:
        :class:`TwoPhaseRates`. Cost: ``len(grid) * steps`` gradients, ``steps`` again, and for each trial of the
        second phase ``epochs`` epochs with a forward pass over the data after each.

    Raises:
        MeasurementError: No rate of the grid trains, or none below it makes the loss fall steadily.
        ValueError: An argument is out of range.
        TaskError: The task breaks its contract.

    References:
        Leclerc and Madry, "The Two Regimes of Deep Network Training", 2020, arXiv 2002.10376, for the phases; the
        rules for the rates are ours.
    """
    rates = sorted({float(lr) for lr in grid})
    if not rates or not all(0 < lr < math.inf for lr in rates):
        raise ValueError(f"grid: expected positive learning rates, got {list(grid)!r}")
    for name, count, least in (("steps", steps, 10), ("epochs", epochs, 20)):
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            raise ValueError(f"{name}: expected an integer of {least} or more, got {count!r}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum: expected 0 or more and less than 1, got {momentum!r}")
    began = time.perf_counter()
    task.check()
    runs = run_cells(task, "sgd(momentum=0)", [Cell(Constant(lr), seed) for lr in rates], steps, evaluate=False)
    first = float(runs[0]["loss"].value[0])
    tail = max(steps // 10, 1)
    losses = {
        lr: float(np.mean(run["loss"].value[-tail:])) if run.status == "finished" else math.inf
        for lr, run in zip(rates, runs, strict=True)
    }
    fall = first - min(losses.values())
    trained = [lr for lr in rates if first - losses[lr] >= COLLAPSED * fall] if fall > 0 else []
    if not trained:
        raise MeasurementError(
            f"two_phase_rates: no learning rate from {rates[0]:.3g} to {rates[-1]:.3g} lowered the loss of "
            f"{first:.4g} in {steps} updates; give a grid of smaller ones"
        )
    large = trained[-1]
    batches = [task.to_device(batch) for batch in task.batches(seed=seed)]
    model = task.model(seed)
    cost = sum((run.cost for run in runs), Cost())
    with isolated_rng(seed), mode_of(model, training=True):
        stream = BatchStream(task.train, seed)
        for _ in _trained(task, model, stream, large, 0.0, steps):
            pass
        rises: dict[float, float] = {}
        for lr in reversed([lr for lr in rates if lr <= large]):
            copied, position = copy.deepcopy(model), stream.state_dict()
            seen, made = _epoch_losses(task, copied, batches, position, lr, momentum, epochs)
            rises[lr], cost = Regime(lr, seen).rises, cost + made
            if math.isfinite(seen[-1]) and rises[lr] <= RISES:
                cost += Cost(gradients=steps, updates=steps)
                spent = Cost(cost.forwards, cost.gradients, cost.products, cost.updates, time.perf_counter() - began)
                return TwoPhaseRates(large, lr, momentum, losses, rises, first, epochs, spent)
    raise MeasurementError(
        f"two_phase_rates: after {steps} updates at {large:.3g} every rate from {rates[0]:.3g} up raised the "
        f"training loss in more than {RISES:.0%} of {epochs} epochs; give a grid with smaller ones"
    )


def _epoch_losses(
    task: Task,
    model: nn.Module,
    batches: list[Batch],
    position: dict[str, int],
    lr: float,
    momentum: float,
    epochs: int,
) -> tuple[list[float], Cost]:
    """Loss of the whole training set, in one order, before the first epoch and after each."""
    objective = Objective(model, task.loss_fn, batches, count=task.count)
    stream = BatchStream(task.train, position["seed"])
    stream.load_state_dict(position)
    losses = [objective.loss()]
    updates = 0
    for updates in _trained(task, model, stream, lr, momentum, epochs * len(batches)):
        if updates % len(batches) == 0:
            losses.append(objective.loss())
            if not math.isfinite(losses[-1]):
                break
    return losses, Cost(forwards=len(losses) * len(batches), gradients=updates, updates=updates)


def _trained(
    task: Task, model: nn.Module, stream: BatchStream, lr: float, momentum: float, steps: int
) -> Iterator[int]:
    """Train ``model``, giving the number of updates after each."""
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=lr, momentum=momentum)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        task.loss_fn(model, task.to_device(next(stream))).backward()
        optimizer.step()
        yield step + 1
