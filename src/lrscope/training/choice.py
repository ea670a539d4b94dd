"""Which engine is faster for a task, by measuring a few steps of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from lrscope.optimizers.spec import OptimizerSpec
from lrscope.records import Cost
from lrscope.tasks import BatchStream, Task
from lrscope.training import timing
from lrscope.training.cell import Cell
from lrscope.training.grouping import chunks, default_chunk, seeds_mix
from lrscope.training.lanes import lanes_for, threads
from lrscope.training.precision import current
from lrscope.training.program import CannotBatch, examine

WORTH_A_TRACE = 4.0
"""Seconds that all runs must be expected to take before the captured program, which takes one to trace, is tried."""

WORTH_OTHER_SIZES = 20.0
"""Seconds that they must then still be expected to take before chunks of other sizes are tried, at a trace each."""

WORTH_A_CHANGE = 0.97
"""Of the seconds with one size of chunks, what another must stay below."""

SERIAL_FIRST = 0.95
"""Times of the serial engine count for so much less: a difference within the noise is not worth the other's ways."""

Way = tuple[Literal["serial", "replicas", "captured replicas"], int]


@dataclass(frozen=True)
class Choice:
    """Who runs, on how many threads (``None``: as torch is set), why, and what finding out cost.

    ``captured`` programs have a thread for each of several chunks, others several threads for one. ``chunk``: most
    replicas in one, where that was asked for or measured.
    """

    engine: Literal["serial", "replicas"]
    threads: int | None
    note: str
    cost: Cost
    captured: bool = False
    chunk: int | None = None


_chosen: dict[tuple[Any, ...], Choice] = {}


def choose(
    task: Task, spec: OptimizerSpec, cells: Sequence[Cell], *, steps: int = 1, chunk: int | None = None
) -> Choice:
    """The faster engine for these cells, by measurement; remembered for the process.

    Cost: four steps of each engine (on a CPU twice, for torch's number of threads and for one: small tensors gain
    nothing from a second, and on a busy machine wait for it) the first time; nothing for a single cell. Where all
    runs together take several seconds, also a trace of the program, about one second, and some tens of steps of it;
    where they would still take long, the same again for chunks of other sizes.
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


def _measured(task: Task, spec: OptimizerSpec, cells: Sequence[Cell], steps: int, chunk: int | None) -> Choice:
    started = time.perf_counter()
    usual = torch.get_num_threads()
    numbers = [1, usual] if task.device == "cpu" and usual > 1 else [usual]
    seed = cells[0].seed
    gradients = 1 + 2 * (len({c.seed for c in cells}) > 1)  # looking at the model, and whether seeds mix
    times: dict[Way, float] = {}
    refused, traits, mixed, size = "", None, False, chunk
    try:
        with threads(1 if len(numbers) > 1 else None):
            traits = examine(task, seed, task.to_device(next(BatchStream(task.train, seed))))
            mixed = seeds_mix(task, cells, traits)
            part = next(chunks(cells, chunk or default_chunk(traits.grad, traits.kept), by_seed=not mixed))
        for number in numbers:
            seconds = timing.batched(task, spec, [cells[i].seed for i in part], traits, number)
            times["replicas", number] = seconds / len(part)
            gradients += (timing.TRIALS + 1) * len(part)
    except CannotBatch as error:
        refused = f"cannot run as replicas: {error}"
    for number in numbers:
        times["serial", number] = timing.one_run(task, spec, seed, number)
        gradients += timing.TRIALS + 1
    if (
        traits is not None
        and not refused
        and not traits.counts
        and min(times.values()) * steps * len(cells) > WORTH_A_TRACE
    ):
        lanes = lanes_for(task, traits, len(cells))
        most = chunk or -(-len(cells) // lanes)

        def captured(size: int) -> float:
            nonlocal gradients
            part = next(chunks(cells, size, by_seed=not mixed))
            gradients += timing.CAPTURED_STEPS * len(part) * lanes
            return timing.captured(task, spec, [cells[i].seed for i in part], traits, lanes) / len(part)

        size = min(chunk or default_chunk(traits.grad, traits.kept, captured=True), most)
        size, least = _fitting(captured, size, most, 0 if chunk else steps * len(cells))
        if least < float("inf"):
            times["captured replicas", lanes] = least
    engine, number = min(times, key=lambda way: times[way] * (SERIAL_FIRST if way[0] == "serial" else 1))
    spent = Cost(gradients=gradients, seconds=time.perf_counter() - started)
    found = ", ".join(f"{who} {t * 1e3:.2f} ({_count(n)})" for (who, n), t in times.items())
    note = refused or f"fastest of, in ms per step and run: {found}"
    kind: Literal["serial", "replicas"] = "serial" if engine == "serial" else "replicas"
    threads_of = None if number == usual else number
    if engine != "captured replicas":
        return Choice(kind, threads_of, note, spent, chunk=chunk)
    return Choice(kind, threads_of, f"{note}; at most {size} in a chunk", spent, captured=True, chunk=size)


def _fitting(seconds: Callable[[int], float], size: int, most: int, work: int) -> tuple[int, float]:
    """The size of chunks with which a step takes a run the fewest seconds, and these.

    From ``size`` on doubled, or else halved, for as long as that helps and ``work`` steps are worth another trace.
    """
    best, least = size, seconds(size)
    for factor in (2.0, 0.5):
        while WORTH_OTHER_SIZES < least * work < float("inf") and 1 <= (other := int(best * factor)) <= most:
            found = seconds(other)
            if found > WORTH_A_CHANGE * least:
                break
            best, least = other, found
        if best != size:
            break
    return best, least


def _count(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"
