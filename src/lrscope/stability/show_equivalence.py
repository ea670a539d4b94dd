"""Weight decay and its exponential learning rate, both trained, update by update beside each other."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lrscope.errors import MeasurementError
from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Batch, LossFn, Objective
from lrscope.optimizers import EquivalentLR, OptimizerSpec, ScheduledLR
from lrscope.records import Cost, Run, RunWriter, Status
from lrscope.schedules import Schedule
from lrscope.stability.invariance import ScaleInvariance, scale_invariance
from lrscope.tasks import BatchStream, Task
from lrscope.training import evaluate
from lrscope.training.divergence import has_diverged
from lrscope.training.loop import check_schedule

SAME = 1e-6
"""A relative difference of weights below this is rounding: a wrong formula shows by 1e-4 within a hundred updates."""


@dataclass(frozen=True)
class Equivalence:
    """Two runs, the one with weight decay and the one with a growing learning rate instead.

    Attributes:
        original: With weight decay. Columns ``loss``, ``lr`` and ``weight_norm``, the length of all scale-invariant
            weights, at every update; ``eval_loss`` and the task's metrics at the end.
        exponential: Without. The same columns, and ``weight_difference``: the largest relative difference of any
            parameter tensor after the update, once its weights are scaled back.
        invariance: Which parameters were converted, as measured.
        rebases: Where the weights were scaled back, and by what, see
            :class:`~lrscope.schedules.ExponentialEquivalent`.
    """

    original: Run
    exponential: Run
    invariance: ScaleInvariance
    rebases: dict[int, float]

    @property
    def weights(self) -> float:
        """The largest relative difference of any parameter tensor, at any update."""
        return float(self.exponential["weight_difference"].value.max())

    @property
    def losses(self) -> float:
        """The largest difference of the training losses, at any update."""
        pairs = self.original["loss"].value, self.exponential["loss"].value
        return float(np.abs(pairs[0] - pairs[1]).max())

    @property
    def parted_at(self) -> int | None:
        """The first update after which the weights differ by more than :data:`SAME`; ``None`` if they never do."""
        step, difference = self.exponential["weight_difference"]
        apart = difference > SAME
        return int(step[apart.argmax()]) if apart.any() else None

    def __str__(self) -> str:
        steps = self.original.steps_done
        rates = " to ".join(f"{x:.3g}" for x in self.exponential["lr"].value[[0, -1]])
        if self.parted_at is None:
            said = f"the same run: over {steps} updates weights differ by {self.weights:.1e} at most (relative)"
        else:
            said = (
                f"equal to {SAME:g} for {self.parted_at} updates, then different, by {self.weights:.1e} at most "
                "(relative): an eps in a normalisation, or single precision, grows, as training is chaotic"
            )
        ends = [
            f"{name} {self.original.final(name):.6g} and {self.exponential.final(name):.6g}"
            for name in self.original.columns
            if name not in ("loss", "lr", "weight_norm")
        ]
        end = f"; at the end {', '.join(ends)}" if ends else ""
        return (
            f"{said}, losses by {self.losses:.1e}{end}. Learning rate without weight decay: {rates}, rebased "
            f"{len(self.rebases)} times"
        )


def show_equivalence(
    task: Task,
    optimizer: OptimizerSpec | str,
    schedule: Schedule,
    steps: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Equivalence:
    """Train a normalised model with weight decay, and without it by the exponential equivalent, and compare.

    Which weights are scale invariant is measured; they are converted, all others keep schedule and weight decay. Both
    runs see the same batches and the same draws.

    Args:
        task: What is trained. Floating-point tensors of its batches are given in ``dtype``.
        optimizer: An SGD with weight decay: ``"sgd(momentum=0.9, weight_decay=5e-4)"``.
        schedule: Absolute learning rates of the run with weight decay.
        steps: Updates.
        seed: As for :func:`lrscope.train`.
        dtype: Of the models. In float64, with eps 0 in the normalisations, the runs are equal to rounding.

    Cost: two gradients per update, and that of :func:`scale_invariance` for one batch.

    Raises:
        MeasurementError: No parameter is scale invariant.
        ScheduleError: There is no exact equivalent: another optimizer than SGD, Nesterov momentum, too much weight
            decay.
        ValueError: There is no weight decay, so nothing to translate.

    Example:
        >>> import lrscope as lrs
        >>> shown = show_equivalence(
        ...     lrs.tasks.digits(model="cnn", depth=1), "sgd(weight_decay=0.01)", lrs.schedules.Constant(0.05), 3
        ... )
        >>> shown.weights < 1e-3
        True

    References:
        Li, Arora, An Exponential Learning Rate Schedule for Deep Learning, 2019, arXiv 1910.07454.
    """
    spec = OptimizerSpec.parse(optimizer)
    if spec.weight_decay == 0:
        raise ValueError(f"optimizer: {spec} has no weight decay, so there is nothing to translate; give it some")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps: expected a positive integer, got {steps!r}")
    check_schedule(schedule, steps)
    task.check()
    task = _in(task, dtype)
    models = task.model(seed), task.model(seed)
    objective = Objective(models[0], task.loss_fn, task.batches(1, seed=seed), count=task.count)
    found = scale_invariance(objective)
    groups = [[g for g in found.param_groups(model) if g["params"]] for model in models]
    if groups[0][0]["name"] != "scale_invariant":
        raise MeasurementError(
            f"task: no parameter of {type(models[0]).__name__} is scale invariant, so weight decay is more than a "
            "learning rate here; put a normalisation behind its layers (and no bias before it)"
        )
    original, exponential = (spec.build(g, lr=1.0) for g in groups)  # pyright: ignore[reportArgumentType]  (groups)
    schedulers = (
        ScheduledLR(original, schedule),
        EquivalentLR(exponential, schedule, invariant=["scale_invariant"], steps=steps),
    )
    writers = _writers(task, spec, schedule, steps, seed)
    status = _train(task, models, (original, exponential), schedulers, writers, steps, seed)
    rebases = dict(schedulers[1].equivalents["scale_invariant"].rebases)
    runs = [_end(task, writer, model, steps, status) for writer, model in zip(writers, models, strict=True)]
    return Equivalence(runs[0], runs[1], found, rebases)


def _train(
    task: Task,
    models: tuple[nn.Module, nn.Module],
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    schedulers: tuple[ScheduledLR, EquivalentLR],
    writers: tuple[RunWriter, RunWriter],
    steps: int,
    seed: int,
) -> Status:
    stream, first = BatchStream(task.train, seed), math.nan
    for step in range(steps):
        batch = task.to_device(next(stream))
        rows: list[dict[str, float]] = []
        for model, optimizer, scheduler in zip(models, optimizers, schedulers, strict=True):
            with isolated_rng(seed + step), mode_of(model, training=True):
                optimizer.zero_grad()
                loss = task.loss_fn(model, batch)
                loss.backward()
            group = optimizer.param_groups[0]
            norm = torch.stack([p.detach().norm() for p in group["params"]]).norm()
            rows.append({"loss": float(loss.detach()), "lr": float(group["lr"]), "weight_norm": float(norm)})
            optimizer.step()
            scheduler.step()
        first = rows[0]["loss"] if math.isnan(first) else first
        if any(has_diverged(row["loss"], first) for row in rows):
            return "diverged"
        rows[1]["weight_difference"] = _difference(models[0], schedulers[1].original_weights(models[1]))
        for writer, row in zip(writers, rows, strict=True):
            writer.row(step, **row)
    return "finished"


@torch.no_grad()
def _difference(model: nn.Module, weights: dict[str, Tensor]) -> float:
    """The largest relative difference of a parameter tensor."""
    parts = [(p - weights[n]).norm() / p.norm().clamp_min(1e-30) for n, p in model.named_parameters()]
    return float(torch.stack(parts).max())


def _writers(
    task: Task, spec: OptimizerSpec, schedule: Schedule, steps: int, seed: int
) -> tuple[RunWriter, RunWriter]:
    config = {"task": task.name, "optimizer": spec.to_spec(), "steps": steps, "seed": seed}
    config["schedule"] = schedule.to_spec()
    return RunWriter(None, "with weight decay", config), RunWriter(None, "exponential", config)


def _end(task: Task, writer: RunWriter, model: nn.Module, steps: int, status: Status) -> Run:
    if status == "finished":
        writer.row(steps, **evaluate(task, model))
    return writer.end(status, Cost(gradients=len(writer.rows), updates=len(writer.rows)))


def _in(task: Task, dtype: torch.dtype) -> Task:
    """The same task in another precision."""

    def cast(batch: Batch) -> Batch:
        return pytree.tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, batch)

    def on_cast(fn: LossFn) -> LossFn:
        return lambda model, batch: fn(model, cast(batch))

    def build(seed: int) -> Any:
        return task.build(seed).to(dtype)

    metrics = {name: on_cast(fn) for name, fn in task.metrics.items()}
    return dataclasses.replace(task, build=build, loss_fn=on_cast(task.loss_fn), metrics=metrics)
