"""The evaluation set's loss and metrics: of one model, or of N replicas at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Batch
from lrscope.tasks import BatchStream, Task

Measure = Callable[[nn.Module, Batch], Tensor]


def evaluate(task: Task, model: nn.Module) -> dict[str, float]:
    """``eval_loss`` and the task's metrics over ``task.evaluate``, weighted by examples.

    In eval mode and without a trace on modes or random states. Empty where the task has no evaluation set.
    Cost: one forward pass over the set for the loss, and one more for each metric.
    """
    return evaluated(task, model)[0]


@torch.no_grad()
def evaluated(task: Task, model: nn.Module) -> tuple[dict[str, float], int]:
    """What :func:`evaluate` gives, and the examples that went through the model for it."""
    with isolated_rng(seed=0), mode_of(model, training=False):
        means, examples = weighted_means(task, lambda fn, batch: torch.as_tensor(fn(model, batch)))
    return {name: float(value) for name, value in means.items()}, examples


def weighted_means(task: Task, measure: Callable[[Measure, Batch], Tensor]) -> tuple[dict[str, Tensor], int]:
    """Means over the evaluation set of whatever ``measure`` makes of a loss or metric and a batch.

    ``measure`` decides for how many models at once: its results have shape ``()`` or ``(N,)``. Also returns the
    examples that passed through each model, once for the loss and once for each metric.
    """
    functions: dict[str, Measure] = {"eval_loss": task.eval_loss_fn or task.loss_fn, **task.metrics}
    sums: dict[str, Any] = {}
    total = 0
    for batch in _batches(task):
        n = task.count(batch)
        total += n
        for name, fn in functions.items():
            sums[name] = sums.get(name, 0.0) + n * measure(fn, batch).double()
    return ({name: value / total for name, value in sums.items()} if total else {}), total * len(functions)


def _batches(task: Task) -> Iterator[Batch]:
    if task.evaluate is not None:
        for batch in BatchStream(task.evaluate).epoch():
            yield task.to_device(batch)
