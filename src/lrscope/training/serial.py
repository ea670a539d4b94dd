"""One run after the other over ``torch.optim``: the plain reference that batched replicas are held equal to."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from lrscope.isolation import isolated_rng, mode_of
from lrscope.optimizers.spec import OptimizerSpec
from lrscope.records import Run, Status
from lrscope.records import environment as versions
from lrscope.tasks import BatchStream, Task
from lrscope.training import recording
from lrscope.training.cell import Cell
from lrscope.training.divergence import has_diverged
from lrscope.training.evaluate import evaluated
from lrscope.training.recording import Look, OnProgress, ShouldStop


def train_one(
    task: Task,
    optimizer: OptimizerSpec | str | dict[str, Any],
    cell: Cell,
    steps: int,
    *,
    record_every: int = 1,
    evaluate: bool = True,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    at_start: Look | None = None,
    at_end: Look | None = None,
    index: int = 0,
) -> Run:
    """Train one cell and return its record; arguments as in :func:`~lrscope.training.replicas`.

    ``index`` is the cell's place among others, for ``at_start`` and ``at_end``.
    """
    spec = OptimizerSpec.parse(optimizer)
    recording.check(task, spec, [cell], steps, record_every=record_every)
    model = task.model(cell.seed)
    rates = cell.schedule.values(steps)
    opt = cell.rule(spec).build([p for p in model.parameters() if p.requires_grad], lr=rates[0])
    stream = BatchStream(task.train, cell.seed)
    losses: list[float] = []
    status: Status = "finished"
    final: dict[str, float] = {}
    looks = recording.Looks()
    forwards, num_examples = 0.0, 1

    started = time.perf_counter()
    with isolated_rng(cell.seed), mode_of(model, training=True):
        for step in range(steps):
            if should_stop is not None and should_stop():
                status = "interrupted"
                break
            if step == 0 and at_start is not None:  # a model of its own, so that whatever is done to it stays there
                looks.start = recording.look(at_start, index, task.model(cell.seed), task, cell.seed)
            for group in opt.param_groups:
                group["lr"] = float(rates[step])
            opt.zero_grad()
            batch = task.to_device(next(stream))
            num_examples = task.count(batch)
            loss = task.loss_fn(model, batch)
            loss.backward()
            losses.append(float(loss.detach()))
            if has_diverged(losses[-1], losses[0]):
                status = "diverged"
                break
            opt.step()
            if on_progress is not None:
                on_progress(step + 1, steps)
        if evaluate and status == "finished":
            final, examples = evaluated(task, model)
            forwards = examples / num_examples
    if at_end is not None and status == "finished" and recording.has_survived(final, losses[0]):
        looks.end = recording.look(at_end, index, model, task, cell.seed)
    return recording.finish(
        task,
        spec,
        cell,
        steps,
        np.asarray(losses),
        engine="serial",
        record_every=record_every,
        status=status,
        final=final,
        looks=looks,
        forwards=forwards,
        seconds=time.perf_counter() - started,
        environment=versions(),
    )
