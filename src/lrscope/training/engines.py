"""Who runs a batch of cells: one batched program, or one run after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from lrscope.isolation import isolated_rng, mode_of
from lrscope.optimizers.functional import FunctionalOptimizer
from lrscope.optimizers.spec import OptimizerSpec
from lrscope.records import Cost, Run
from lrscope.tasks import BatchStream, Task
from lrscope.training import recording
from lrscope.training.cell import Cell
from lrscope.training.program import CannotBatch, Program, Traits, examine
from lrscope.training.recording import OnProgress, ShouldStop
from lrscope.training.replicas import Feed, chunks, default_chunk, replicas, seeds_mix
from lrscope.training.serial import train_one

Engine = Literal["auto", "serial", "replicas"]

TRIALS = 3
"""Timed steps of each engine, after one to warm up. The best counts: other programs only ever add time."""


@dataclass(frozen=True)
class Choice:
    """Which engine, why, and what finding out cost."""

    engine: Literal["serial", "replicas"]
    note: str
    cost: Cost


_chosen: dict[tuple[Any, ...], Choice] = {}


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
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> list[Run]:
    """Train one run per cell; both engines give the same runs to rounding.

    Args:
        task, optimizer, cells, steps, record_every, evaluate, chunk, on_progress, should_stop: As in
            :func:`~lrscope.training.replicas`.
        engine: ``"replicas"`` (one batched program), ``"serial"`` (a plain loop over ``torch.optim``), or
            ``"auto"``: times a few steps of both once per task and number of cells, and keeps the faster.
            The choice and its reason are in each run's ``config``; its cost is in the runs' costs.

    Raises:
        CannotBatch: ``engine="replicas"`` and the model cannot run as a batched program.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine: expected one of {', '.join(get_args(Engine))}, got {engine!r}")
    spec = OptimizerSpec.parse(optimizer)
    recording.check(task, cells, steps, record_every=record_every, chunk=chunk)
    options: dict[str, Any] = {
        "record_every": record_every,
        "evaluate": evaluate,
        "on_progress": on_progress,
        "should_stop": should_stop,
    }
    if engine == "replicas":
        return replicas(task, spec, cells, steps, chunk=chunk, **options)
    if engine == "serial":
        return _one_after_the_other(task, spec, cells, steps, **options)

    choice = choose(task, spec, cells, chunk=chunk)
    if choice.engine == "replicas":
        try:
            return _noted(replicas(task, spec, cells, steps, chunk=chunk, **options), choice)
        except CannotBatch as error:  # a later batch, or the evaluation, did what the first did not
            choice = Choice("serial", f"replicas gave up: {error}", choice.cost)
    return _noted(_one_after_the_other(task, spec, cells, steps, **options), choice)


def choose(task: Task, spec: OptimizerSpec, cells: Sequence[Cell], *, chunk: int | None = None) -> Choice:
    """The faster engine for these cells, by measurement; remembered for the process.

    Cost: four steps of each engine, the first time; nothing for a single cell.
    """
    if len(cells) == 1:
        return Choice("serial", "a single run", Cost())
    key = (task.name, task.build, task.device, str(spec), len(cells), len({c.seed for c in cells}), chunk)
    try:
        hash(key)
    except TypeError:  # a builder object that defines equality
        key = (task.name, len(cells), chunk)
    if key in _chosen:
        return replace(_chosen[key], cost=Cost())
    _chosen[key] = _measured(task, spec, cells, chunk)
    return _chosen[key]


def _measured(task: Task, spec: OptimizerSpec, cells: Sequence[Cell], chunk: int | None) -> Choice:
    started = time.perf_counter()
    gradients = 0
    try:
        seed = cells[0].seed
        traits = examine(task, seed, task.to_device(next(BatchStream(task.train, seed))))
        gradients += 1
        part = next(chunks(cells, chunk or default_chunk(traits.grad), by_seed=not seeds_mix(task, cells, traits)))
        batched = _time_batched(task, spec, [cells[i].seed for i in part], traits) / len(part)
        gradients += (TRIALS + 1) * len(part)
    except CannotBatch as error:
        seconds = time.perf_counter() - started
        return Choice("serial", f"cannot run as replicas: {error}", Cost(gradients=gradients, seconds=seconds))
    alone = _time_serial(task, spec, seed)
    cost = Cost(gradients=gradients + TRIALS + 1, seconds=time.perf_counter() - started)
    engine = "replicas" if batched < alone else "serial"
    return Choice(engine, f"{batched * 1e3:.2f} ms a step as replicas, {alone * 1e3:.2f} ms alone", cost)


def _time_batched(task: Task, spec: OptimizerSpec, seeds: Sequence[int], traits: Traits) -> float:
    program, rule = Program(task, seeds, traits), FunctionalOptimizer(spec)
    state = rule.init(program.theta)
    feed = Feed.of(task, seeds)
    still = torch.zeros(len(seeds), 1, device=program.theta.device, dtype=program.theta.dtype)

    def step() -> None:
        losses, grads = program.gradients(*feed.next(seeds))
        rule.update(program.theta, grads, still, state)
        losses.sum().item()  # waits for the device

    with isolated_rng(seeds[0]), mode_of(program.model, training=True):
        return _best(step)


def _time_serial(task: Task, spec: OptimizerSpec, seed: int) -> float:
    model, stream = task.model(seed), BatchStream(task.train, seed)
    opt = spec.build([p for p in model.parameters() if p.requires_grad], lr=0.0)

    def step() -> None:
        opt.zero_grad()
        loss = task.loss_fn(model, task.to_device(next(stream)))
        loss.backward()
        opt.step()
        loss.item()

    with isolated_rng(seed), mode_of(model, training=True):
        return _best(step)


def _best(step: Callable[[], None]) -> float:
    step()
    times = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times)


def _one_after_the_other(
    task: Task,
    spec: OptimizerSpec,
    cells: Sequence[Cell],
    steps: int,
    *,
    on_progress: OnProgress | None,
    should_stop: ShouldStop | None,
    **options: Any,
) -> list[Run]:
    runs = []
    for i, cell in enumerate(cells):

        def progress(updates: int, _: int, before: int = i * steps) -> None:
            if on_progress is not None:
                on_progress(before + updates, len(cells) * steps)

        runs.append(train_one(task, spec, cell, steps, on_progress=progress, should_stop=should_stop, **options))
        progress(steps, steps)
    return runs


def _noted(runs: list[Run], choice: Choice) -> list[Run]:
    """The runs with the engine's note in their config, and the choice's cost shared among them."""
    cost, n = choice.cost, len(runs)
    share = Cost(gradients=cost.gradients / n, seconds=cost.seconds / n)
    return [replace(r, config={**r.config, "engine_note": choice.note}, cost=r.cost + share) for r in runs]
