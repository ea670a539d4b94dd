"""Which engine is faster for a task, by measuring a few steps of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

from lrscope.isolation import isolated_rng, mode_of
from lrscope.optimizers.functional import FunctionalOptimizer
from lrscope.optimizers.spec import OptimizerSpec
from lrscope.records import Cost
from lrscope.tasks import BatchStream, Task
from lrscope.training.captured import Graphs, Lane
from lrscope.training.cell import Cell
from lrscope.training.chunk import LOOK_EVERY
from lrscope.training.feed import Feed, joined
from lrscope.training.grouping import chunks, default_chunk, seeds_mix
from lrscope.training.lanes import lanes_for, workers
from lrscope.training.precision import current
from lrscope.training.program import CannotBatch, Program, Traits, examine
from lrscope.training.updates import Updates

TRIALS = 3
"""Timed steps, after one to warm up. The fastest counts: other programs on the machine only ever add time."""

WORTH_A_TRACE = 4.0
"""Seconds that all runs must be expected to take before the captured program, which takes one to trace, is tried."""

SERIAL_FIRST = 0.95
"""Times of the serial engine count for so much less: a difference within the noise is not worth the other's ways."""

Way = tuple[Literal["serial", "replicas", "captured replicas"], int]


@dataclass(frozen=True)
class Choice:
    """Who runs, on how many threads (``None``: as torch is set), why, and what finding out cost.

    ``captured`` programs have a thread for each of several chunks, others several threads for one.
    """

    engine: Literal["serial", "replicas"]
    threads: int | None
    note: str
    cost: Cost
    captured: bool = False


_chosen: dict[tuple[Any, ...], Choice] = {}


def choose(
    task: Task, spec: OptimizerSpec, cells: Sequence[Cell], *, steps: int = 1, chunk: int | None = None
) -> Choice:
    """The faster engine for these cells, by measurement; remembered for the process.

    Cost: four steps of each engine (on a CPU twice, for torch's number of threads and for one: small tensors gain
    nothing from a second, and on a busy machine wait for it) the first time; nothing for a single cell. Where all
    runs together take several seconds, also a trace of the program, about one second, and four steps of it.
    """
    if len(cells) == 1:
        return Choice("serial", None, "a single run", Cost())
    # Names alone do not tell tasks apart, since "task" is the default; amounts of work count by powers of 2.
    size = sum(p.numel() for p in task.model(cells[0].seed).parameters())
    several = len({c.seed for c in cells}) > 1
    work = len(cells).bit_length(), (steps * len(cells)).bit_length()
    key = (task.name, size, task.device, str(spec), *work, several, chunk, torch.get_num_threads(), current())
    if key in _chosen:
        return replace(_chosen[key], cost=Cost())
    _chosen[key] = _measured(task, spec, cells, steps, chunk)
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


def _measured(task: Task, spec: OptimizerSpec, cells: Sequence[Cell], steps: int, chunk: int | None) -> Choice:
    started = time.perf_counter()
    usual = torch.get_num_threads()
    numbers = [1, usual] if task.device == "cpu" and usual > 1 else [usual]
    seed = cells[0].seed
    gradients = 1 + 2 * (len({c.seed for c in cells}) > 1)  # looking at the model, and whether seeds mix
    times: dict[Way, float] = {}
    refused, traits, mixed = "", None, False
    try:
        with threads(1 if len(numbers) > 1 else None):
            traits = examine(task, seed, task.to_device(next(BatchStream(task.train, seed))))
            mixed = seeds_mix(task, cells, traits)
            part = next(chunks(cells, chunk or default_chunk(traits.grad, traits.kept), by_seed=not mixed))
        for number in numbers:
            seconds = _time_batched(task, spec, [cells[i].seed for i in part], traits, number)
            times["replicas", number] = seconds / len(part)
            gradients += (TRIALS + 1) * len(part)
    except CannotBatch as error:
        refused = f"cannot run as replicas: {error}"
    for number in numbers:
        times["serial", number] = _time_serial(task, spec, seed, number)
        gradients += TRIALS + 1
    if (
        traits is not None
        and not refused
        and not traits.counts
        and min(times.values()) * steps * len(cells) > WORTH_A_TRACE
    ):
        lanes = lanes_for(task, traits, len(cells))
        size = chunk or min(default_chunk(traits.grad, traits.kept, captured=True), -(-len(cells) // lanes))
        part = next(chunks(cells, size, by_seed=not mixed))
        found = _time_captured(task, spec, [cells[i].seed for i in part], traits, lanes)
        if found is not None:
            times["captured replicas", lanes] = found / len(part)
        gradients += (TRIALS + 2) * len(part) * lanes
    engine, number = min(times, key=lambda way: times[way] * (SERIAL_FIRST if way[0] == "serial" else 1))
    spent = Cost(gradients=gradients, seconds=time.perf_counter() - started)
    found = ", ".join(f"{who} {t * 1e3:.2f} ({_count(n)})" for (who, n), t in times.items())
    note = refused or f"fastest of, in ms per step and run: {found}"
    kind: Literal["serial", "replicas"] = "serial" if engine == "serial" else "replicas"
    return Choice(kind, None if number == usual else number, note, spent, engine == "captured replicas")


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


def _time_captured(task: Task, spec: OptimizerSpec, seeds: Sequence[int], traits: Traits, lanes: int) -> float | None:
    """Seconds of a step per chunk when ``lanes`` train at the same time; ``None`` if they cannot be captured."""
    graphs, feed, shared = Graphs(), Feed.of(task, seeds), len(set(seeds)) == 1
    (draw,) = feed.block(1, seeds)
    steps: list[Callable[[], None]] = []
    wide = torch.promote_types(traits.grad.dtype, torch.float32)
    still = torch.zeros(LOOK_EVERY, len(seeds), 1, dtype=wide)
    with isolated_rng(seeds[0]), ExitStack() as stack:
        for _ in range(lanes):
            program = Program(task, seeds, traits)
            stack.enter_context(mode_of(program.model, training=True))
            captured, rule = Lane(graphs).enter(program), FunctionalOptimizer(spec)
            batch, dims = joined(draw, seeds, shared=shared)
            if captured.tape(batch, dims) is None:
                return None
            state, losses = rule.init(program.theta), torch.empty(LOOK_EVERY, len(seeds), dtype=traits.loss.dtype)
            rule.update(captured.program.theta, captured.gradients(batch, dims)[1], still[0], state)
            updates = Updates(captured, rule, state, seeds, shared=shared)
            updates.prepare(draw)
            numbers = rule.numbers(still, state.step)
            steps.append(partial(updates.play, [draw] * LOOK_EVERY, numbers, losses))
        with workers(lanes) as pool:
            if pool is None:
                return _best(steps[0]) / LOOK_EVERY
            together = _best(lambda: [future.result() for future in [pool.submit(step) for step in steps]])
            return together / lanes / LOOK_EVERY


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


def _best(step: Callable[[], Any]) -> float:
    step()
    times = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times)
