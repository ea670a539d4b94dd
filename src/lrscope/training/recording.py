"""What every engine asks and answers alike: arguments in, :class:`Run` out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lrscope.isolation import isolated_rng, mode_of
from lrscope.optimizers.spec import OptimizerSpec
from lrscope.records import Cost, Event, Run, Status
from lrscope.schedules import Schedule
from lrscope.tasks import Task
from lrscope.training import precision
from lrscope.training.cell import Cell
from lrscope.training.divergence import has_diverged

FloatArray = NDArray[np.float64]
OnProgress = Callable[[int, int], None]
ShouldStop = Callable[[], bool]
OnRun = Callable[[int, Run], None]
Look = Callable[[int, nn.Module], Mapping[str, float]]


def check(
    task: Task,
    spec: OptimizerSpec,
    cells: Sequence[Cell],
    steps: int,
    *,
    record_every: int = 1,
    chunk: int | None = None,
) -> None:
    """Refuse arguments that no engine could run.

    Raises:
        TypeError: ``task`` is no Task, or an element of ``cells`` no Cell with a schedule and a whole seed.
        ValueError: No cells, a count below 1, a learning rate that is negative or not finite, or a cell whose
            optimizer is no variant of ``spec`` in numbers.
    """
    if not isinstance(task, Task):
        raise TypeError(f"task: expected a lrscope Task, got {type(task).__name__}")
    if isinstance(cells, Cell) or not isinstance(cells, Sequence):
        raise TypeError(f"cells: expected a sequence of Cell, got {type(cells).__name__}")
    if not cells:
        raise ValueError("cells: empty, so there is nothing to run; give at least one Cell(schedule)")
    if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk: expected a positive integer or None, got {chunk!r}")
    for name, count in {"steps": steps, "record_every": record_every}.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name}: expected a positive integer, got {count!r}")
    for i, cell in enumerate(cells):
        if not isinstance(cell, Cell):
            raise TypeError(f"cells: element {i} is a {type(cell).__name__}, expected a Cell")
        if not isinstance(cell.schedule, Schedule):
            raise TypeError(
                f"cells: element {i} has a {type(cell.schedule).__name__} for its schedule; "
                "for a fixed learning rate give lrs.schedules.Constant(lr)"
            )
        if not isinstance(cell.seed, int):
            raise TypeError(f"cells: element {i} has seed {cell.seed!r}, expected an integer")
        try:
            cell.rule(spec)
        except (TypeError, ValueError) as error:
            raise type(error)(f"cells: element {i}: {error}") from None
        rates = cell.schedule.values(steps)
        bad = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
        if bad.size:
            raise ValueError(
                f"cells: element {i} has learning rate {rates[bad[0]]:g} at step {bad[0]}; "
                "it must be finite and at least 0"
            )


def finish(
    task: Task,
    spec: OptimizerSpec,
    cell: Cell,
    steps: int,
    losses: FloatArray,
    *,
    engine: str,
    record_every: int,
    status: Status,
    final: Mapping[str, float],
    looks: Looks,
    forwards: float,
    seconds: float,
    environment: Mapping[str, Any],
    **more: Any,
) -> Run:
    """The record of one run.

    Args:
        task, spec, cell, steps: What was asked for.
        losses: Batch losses that were seen, ``(n,)``; for a diverged run the last one is the loss that says so.
        engine: Who ran it.
        record_every: Rows kept: every so many steps, and always the last loss.
        status: As far as the training losses tell; a finished run whose evaluation diverged is diverged too.
        final: ``eval_loss`` and metrics after the last update; empty if not evaluated.
        looks: What the caller's functions saw in the model at the start and at the end.
        forwards: What the evaluation cost, in forward passes over a training batch.
        seconds: The run's share of the wall time.
        environment: Versions and machine class.
        more: What else its config says about how it was run.
    """
    seen = len(losses)
    diverged = status == "diverged"
    rates = cell.schedule.values(steps)
    kept = [t for t in range(seen) if t % record_every == 0 or t == seen - 1]
    rows = [{"step": t, **_finite(loss=losses[t], lr=rates[t])} for t in kept]
    if rows:
        rows[0] |= _finite(**looks.start)
    updates = seen - diverged
    events: tuple[Event, ...] = ()
    if diverged:
        events = (Event(updates, "diverged", {"loss": _or_none(losses[-1])}),)
    else:
        rows.append({"step": updates, **_finite(**final), **_finite(**looks.end)})
    if status == "finished" and not has_survived(final, losses[0]):
        status = "diverged"
        events = (Event(updates, "diverged", {"loss": _or_none(final["eval_loss"])}),)
    elif status == "interrupted":
        events = (Event(updates, "interrupted"),)
    return Run(
        name=cell.name or task.name,
        config={
            "task": task.name,
            "optimizer": cell.rule(spec).to_spec(),
            "schedule": cell.schedule.to_spec(),
            "steps": steps,
            "seed": cell.seed,
            "engine": engine,
            "matmul_precision": precision.current(),
            **more,
        },
        rows=tuple(rows),
        status=status,
        events=events,
        environment=environment,
        cost=Cost(forwards=forwards, gradients=seen, updates=updates, seconds=seconds),
    )


@dataclass
class Looks:
    """Columns from the caller's own functions, for a run's first and last row."""

    start: Mapping[str, float] = field(default_factory=dict)
    end: Mapping[str, float] = field(default_factory=dict)


def look(fn: Look, index: int, model: nn.Module, task: Task, seed: int) -> dict[str, float]:
    """``fn(index, model)`` with the model in train mode, from the run's seed and without a trace on generators.

    Raises:
        TypeError: It returned no mapping.
        ValueError: A column has the name of one that every run has, or of a metric.
    """
    with isolated_rng(seed), mode_of(model, training=True):
        columns = fn(index, model)
    if not isinstance(columns, Mapping):
        raise TypeError(f"at_start, at_end: expected columns as a dict of numbers, got {type(columns).__name__}")
    taken = {"step", "loss", "lr", "eval_loss", *task.metrics} & set(columns)
    if taken:
        raise ValueError(f"at_start, at_end: the column {sorted(taken)[0]!r} is the run's own; give another name")
    return dict(columns)


def has_survived(final: Mapping[str, float], first_loss: float) -> bool:
    """Whether the last update, which no training loss judges, left a usable model."""
    return "eval_loss" not in final or not has_diverged(final["eval_loss"], first_loss)


def _finite(**values: float) -> dict[str, float]:
    # Rows go to JSON, which knows no nan or inf; a missing value says as much.
    return {k: float(v) for k, v in values.items() if math.isfinite(v)}


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
