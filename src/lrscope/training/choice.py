"""Which engine is faster for a task, by measuring a few steps of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from lrscope.isolation import isolated_rng, mode_of
from lrscope.optimizers.functional import FunctionalOptimizer
from lrscope.optimizers.spec import OptimizerSpec
from lrscope.records import Cost
from lrscope.tasks import BatchStream, Task
from lrscope.training.cell import Cell
from lrscope.training.grouping import Feed, chunks, default_chunk, seeds_mix
from lrscope.training.program import CannotBatch, Program, Traits, examine

TRIALS = 3
"""Timed steps, after one to warm up. The fastest counts: other programs on the machine only ever add time."""


@dataclass(frozen=True)
class Choice:
    """Who runs, on how many threads (``None``: as torch is set), why, and what finding out cost."""

    engine: Literal["serial", "replicas"]
    threads: int | None
    note: str
    cost: Cost


_chosen: dict[tuple[Any, ...], Choice] = {}


def choose(task: Task, spec: OptimizerSpec, cells: Sequence[Cell], *, chunk: int | None = None) -> Choice:
    """The faster engine for these cells, by measurement; remembered for the process.

    Cost: four steps of each engine (on a CPU twice, for torch's number of threads and for one: small tensors gain
    nothing from a second, and on a busy machine wait for it) the first time; nothing for a single cell.
    """
    if len(cells) == 1:
        return Choice("serial", None, "a single run", Cost())
    # Names alone do not tell tasks apart, since "task" is the default; numbers of cells count by powers of 2.
    size = sum(p.numel() for p in task.model(cells[0].seed).parameters())
    several = len({c.seed for c in cells}) > 1
    key = (task.name, size, task.device, str(spec), len(cells).bit_length(), several, chunk, torch.get_num_threads())
    if key in _chosen:
        return replace(_chosen[key], cost=Cost())
    _chosen[key] = _measured(task, spec, cells, chunk)
    return _chosen[key]


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Let torch compute on ``number`` threads for a block; ``None`` changes nothing."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        if number is not None:
            torch.set_num_threads(before)


def _measured(task: Task, spec: OptimizerSpec, cells: Sequence[Cell], chunk: int | None) -> Choice:
    started = time.perf_counter()
    usual = torch.get_num_threads()
    numbers = [1, usual] if task.device == "cpu" and usual > 1 else [usual]
    seed = cells[0].seed
    gradients = 1 + 2 * (len({c.seed for c in cells}) > 1)  # looking at the model, and whether seeds mix
    times: dict[tuple[Literal["serial", "replicas"], int], float] = {}
    refused = ""
    try:
        with threads(1 if len(numbers) > 1 else None):
            traits = examine(task, seed, task.to_device(next(BatchStream(task.train, seed))))
            part = next(
                chunks(cells, chunk or default_chunk(traits.grad), by_seed=not seeds_mix(task, cells, traits))
            )
        for number in numbers:
            seconds = _time_batched(task, spec, [cells[i].seed for i in part], traits, number)
            times["replicas", number] = seconds / len(part)
            gradients += (TRIALS + 1) * len(part)
    except CannotBatch as error:
        refused = f"cannot run as replicas: {error}"
    for number in numbers:
        times["serial", number] = _time_serial(task, spec, seed, number)
        gradients += TRIALS + 1
    engine, number = min(times, key=lambda who: times[who])
    spent = Cost(gradients=gradients, seconds=time.perf_counter() - started)
    found = ", ".join(f"{who} {t * 1e3:.2f} ({_count(n)})" for (who, n), t in times.items())
    note = refused or f"fastest of, in ms per step and run: {found}"
    return Choice(engine, None if number == usual else number, note, spent)


def _count(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def _time_batched(task: Task, spec: OptimizerSpec, seeds: Sequence[int], traits: Traits, number: int) -> float:
    program, rule = Program(task, seeds, traits), FunctionalOptimizer(spec)
    state = rule.init(program.theta)
    feed = Feed.of(task, seeds)
    still = torch.zeros(len(seeds), 1, device=program.theta.device, dtype=program.theta.dtype)

    def step() -> None:
        losses, grads = program.gradients(*feed.next(seeds))
        rule.update(program.theta, grads, still, state)
        losses.sum().item()  # waits for the device

    with isolated_rng(seeds[0]), mode_of(program.model, training=True), threads(number):
        return _best(step)


def _time_serial(task: Task, spec: OptimizerSpec, seed: int, number: int) -> float:
    model, stream = task.model(seed), BatchStream(task.train, seed)
    opt = spec.build([p for p in model.parameters() if p.requires_grad], lr=0.0)

    def step() -> None:
        opt.zero_grad()
        loss = task.loss_fn(model, task.to_device(next(stream)))
        loss.backward()
        opt.step()
        loss.item()

    with isolated_rng(seed), mode_of(model, training=True), threads(number):
        return _best(step)


def _best(step: Callable[[], None]) -> float:
    step()
    times = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times)
