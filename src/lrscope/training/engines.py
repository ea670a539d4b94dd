"""Who runs a batch of cells: one batched program, or one run after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from lrscope.optimizers.spec import OptimizerSpec
from lrscope.records import Cost, Run
from lrscope.tasks import Task
from lrscope.training import precision, recording
from lrscope.training.cell import Cell
from lrscope.training.choice import choose
from lrscope.training.lanes import threads
from lrscope.training.precision import MatmulPrecision
from lrscope.training.program import CannotBatch
from lrscope.training.recording import Look, OnProgress, OnRun, ShouldStop
from lrscope.training.replicas import replicas
from lrscope.training.serial import train_one

Engine = Literal["auto", "serial", "replicas"]


def run_cells(
    task: Task,
    optimizer: OptimizerSpec | str | Mapping[str, Any],
    cells: Sequence[Cell],
    steps: int,
    *,
    engine: Engine = "auto",
    record_every: int = 1,
    evaluate: bool = True,
    chunk: int | None = None,
    compile: bool = False,
    matmul_precision: MatmulPrecision = "highest",
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    on_run: OnRun | None = None,
    at_start: Look | None = None,
    at_end: Look | None = None,
) -> list[Run]:
    """Train one run per cell; both engines give the same runs to rounding.

    Args:
        task, optimizer, cells, steps, record_every, evaluate, chunk: As in :func:`~lrscope.training.replicas`.
        on_progress, should_stop, on_run, at_start, at_end: As there.
        matmul_precision: As there; every engine has it.
        compile: As there; for ``engine="replicas"`` only: ``"auto"`` does not consider it, since compiling takes
            longer than most grids.
        engine: ``"replicas"`` (one batched program), ``"serial"`` (a plain loop over ``torch.optim``), or
            ``"auto"``: times a few steps of both, once per task and (within a factor of 2) number of cells, and
            keeps the faster; on a CPU also whether one thread is faster than torch's setting, which comes back
            afterwards, and for seconds of work whether a captured program is. The choice and its reason are in each
            run's ``config``, its cost in the runs' costs.

    Raises:
        CannotBatch: ``engine="replicas"`` and the model cannot run as a batched program.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine: expected one of {', '.join(get_args(Engine))}, got {engine!r}")
    spec = OptimizerSpec.parse(optimizer)
    recording.check(task, spec, cells, steps, record_every=record_every, chunk=chunk)
    options: dict[str, Any] = {
        "record_every": record_every,
        "evaluate": evaluate,
        "on_progress": on_progress,
        "should_stop": should_stop,
        "on_run": on_run,
        "at_start": at_start,
        "at_end": at_end,
    }
    precision.check(matmul_precision)
    if compile and engine != "replicas":
        raise ValueError(f"compile: is for engine='replicas', got engine={engine!r}")
    if engine == "replicas":
        how: dict[str, Any] = {"compile": compile, "matmul_precision": matmul_precision}
        return replicas(task, spec, cells, steps, chunk=chunk, **how, **options)
    with precision.multiplying(matmul_precision):
        if engine == "serial":
            return _one_after_the_other(task, spec, cells, steps, **options)
        return _fastest(task, spec, cells, steps, chunk=chunk, matmul_precision=matmul_precision, **options)


def _fastest(
    task: Task,
    spec: OptimizerSpec,
    cells: Sequence[Cell],
    steps: int,
    *,
    chunk: int | None,
    matmul_precision: MatmulPrecision,
    on_run: OnRun | None,
    **options: Any,
) -> list[Run]:
    choice = choose(task, spec, cells, steps=steps, chunk=chunk)

    def noted(run: Run) -> Run:
        """The run with the engine's note in its config, and its share of the choice's cost."""
        share = Cost(gradients=choice.cost.gradients / len(cells), seconds=choice.cost.seconds / len(cells))
        return replace(run, config={**run.config, "engine_note": choice.note}, cost=run.cost + share)

    options["on_run"] = None if on_run is None else lambda i, run: on_run(i, noted(run))
    with threads(choice.threads):
        if choice.engine == "replicas":
            try:
                how = {"chunk": choice.chunk, "captured": choice.captured, "matmul_precision": matmul_precision}
                return [noted(run) for run in replicas(task, spec, cells, steps, **how, **options)]
            except CannotBatch as error:  # a later batch did what the first did not
                choice = replace(choice, engine="serial", note=f"replicas gave up: {error}")
        return [noted(run) for run in _one_after_the_other(task, spec, cells, steps, **options)]


def _one_after_the_other(
    task: Task,
    spec: OptimizerSpec,
    cells: Sequence[Cell],
    steps: int,
    *,
    on_progress: OnProgress | None,
    should_stop: ShouldStop | None,
    on_run: OnRun | None,
    **options: Any,
) -> list[Run]:
    runs = []
    for i, cell in enumerate(cells):

        def progress(updates: int, _: int, before: int = i * steps) -> None:
            if on_progress is not None:
                on_progress(before + updates, len(cells) * steps)

        hooks = {"on_progress": progress, "should_stop": should_stop, "index": i}
        runs.append(train_one(task, spec, cell, steps, **options, **hooks))
        if runs[-1].status != "interrupted":  # a diverged run is done, too
            progress(steps, steps)
        if on_run is not None:
            on_run(i, runs[-1])
    return runs
