"""Many runs that differ in schedule or seed, trained as one batched tensor program."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain
from typing import Any

from lrscope.isolation import isolated_rng, mode_of
from lrscope.optimizers.spec import OptimizerSpec
from lrscope.records import Run
from lrscope.records import environment as versions
from lrscope.tasks import BatchStream, Task
from lrscope.training import precision, recording
from lrscope.training.captured import Drifted, Graphs, Lane
from lrscope.training.cell import Cell
from lrscope.training.chunk import LOOK_EVERY, Chunk
from lrscope.training.compiled import Compiler
from lrscope.training.feed import Draw, Feed
from lrscope.training.grouping import chunks, default_chunk, seeds_mix
from lrscope.training.lanes import lanes_for, workers
from lrscope.training.precision import MatmulPrecision
from lrscope.training.program import examine
from lrscope.training.recording import Look, OnProgress, OnRun, ShouldStop

Way = Lane | Compiler | None

WORTH_TRACING = 100
"""Steps from which on the program is traced unless asked otherwise: tracing takes as long as some tens of steps."""


def replicas(
    task: Task,
    optimizer: OptimizerSpec | str | Mapping[str, Any],
    cells: Sequence[Cell],
    steps: int,
    *,
    record_every: int = 1,
    evaluate: bool = True,
    chunk: int | None = None,
    captured: bool | None = None,
    compile: bool = False,
    lanes: int | None = None,
    matmul_precision: MatmulPrecision = "highest",
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    on_run: OnRun | None = None,
    at_start: Look | None = None,
    at_end: Look | None = None,
) -> list[Run]:
    """Train one run per cell, several at a time as one tensor program; equal to training each on its own.

    Initialisation, data order and the model's own draws depend on a cell's seed alone, and the global generators
    and the loader are left as found. A run that diverges is recorded at its step and leaves the program; the
    others do not notice.

    Args:
        task: What is trained.
        optimizer: A spec, or what :meth:`OptimizerSpec.parse` reads.
        cells: Schedule and seed of each run, and numbers of the rule that are its own.
        steps: Updates of each run.
        record_every: Steps between rows; the last loss is always among them.
        evaluate: Evaluate finished runs after the last update.
        chunk: Most replicas in one program; by default as many as fit the cache (CPU) or memory (GPU).
        captured: Trace the program's gradient once and play it back at every step, which on a CPU is up to several
            times faster and costs about a second at the start. By default on a CPU from 100 steps on. What cannot
            be traced, or does not agree with the plain program when that is looked at, runs plainly.
        compile: Put the plain gradient through ``torch.compile``, which takes seconds to a minute for each shape of
            batch and program, in the first runs' seconds and in each run's ``config``. Without a compiler, or for a
            model that cannot be compiled, the plain program runs, with a warning. Not together with ``captured``.
        lanes: Chunks of a captured program trained at the same time, each on one thread; by default torch's number
            of threads. Models that draw random numbers have one lane.
        matmul_precision: ``torch.set_float32_matmul_precision`` while the runs train; afterwards what it was before.
            Less than ``"highest"`` changes the numbers: factors of float32 products may be rounded to 11 bits
            (``"high"``) or 8 (``"medium"``), by processors that gain from it. In each run's ``config``.
        on_progress: Called now and then with updates done and updates in all.
        should_stop: Asked every few steps; once true, what still runs is returned as ``interrupted``.
        on_run: Called with the index of a cell and its run as soon as it is known, so that nothing known is lost.
        at_start, at_end: ``fn(index, model)`` -> columns for the run's first or last row, called with the model as
            it is before the first or after the last update, in train mode, from the cell's seed and without a trace
            on the run. A run that diverged or was interrupted has no end. What it raises is the caller's to see.

    Returns:
        Runs in the order of ``cells``. Rows: ``loss`` and ``lr`` of the update that starts at ``step``, and a last
        row with ``eval_loss`` and the task's metrics.

    Raises:
        CannotBatch: The model cannot run as a batched program; :func:`run_cells` falls back to serial.
        TaskError: The task breaks its contract.
        ValueError, TypeError: An argument is out of range or of the wrong type, or ``at_start`` or ``at_end``
            returned something else than columns of their own.
    """
    spec = OptimizerSpec.parse(optimizer)
    recording.check(task, spec, cells, steps, record_every=record_every, chunk=chunk)
    precision.check(matmul_precision)
    if not isinstance(compile, bool) or (compile and captured):
        raise ValueError(
            f"compile: expected True or False, and not True beside captured=True, got compile={compile!r}, "
            f"captured={captured!r}; choose one"
        )
    with ExitStack() as stack:
        stack.enter_context(precision.multiplying(matmul_precision))
        first = cells[0].seed
        batch = task.to_device(next(BatchStream(task.train, first)))
        traits = examine(task, first, batch)
        if captured is None:
            captured = traits.grad.device.type == "cpu" and steps >= WORTH_TRACING
        captured = captured and not (compile or traits.counts)  # a tape goes on with what Python said at its trace
        number = lanes_for(task, traits, len(cells), lanes) if captured else 1
        size = chunk or min(
            default_chunk(traits.grad, traits.kept, captured=captured), -(-len(cells) // number)
        )  # work for every lane
        parts = list(chunks(cells, size, by_seed=not seeds_mix(task, cells, traits)))
        environment, graphs = versions(), Graphs()
        compiler = Compiler() if compile else None
        if compiler is not None and traits.counts:
            compiler.refuse("the model changes numbers that it keeps in plain Python")
        ways: list[Way] = [Lane(graphs) if captured else compiler for _ in range(number)]
        runs: dict[int, Run] = {}
        done = 0
        pool = stack.enter_context(workers(number))
        for some in range(0, len(parts), number):
            wave = parts[some : some + number]

            def begin(ways: Sequence[Way], wave: Sequence[list[int]] = wave) -> list[Chunk]:
                return [Chunk(task, spec, cells, p, steps, traits, way) for p, way in zip(wave, ways, strict=False)]

            def progress(updates: int, before: int = done) -> None:
                if on_progress is not None:
                    on_progress(before + updates, steps * len(cells))

            started = time.perf_counter()
            jobs = begin(ways)
            try:
                _train(jobs, pool, progress, should_stop, at_start)
            except Drifted:  # from here on plainly, and what is under way again from its start
                looks, pool = [job.looks for job in jobs], None
                ways = [None for _ in ways]
                jobs = begin(ways)
                for job, seen in zip(jobs, looks, strict=True):
                    job.looks = seen
                _train(jobs, pool, progress, should_stop, None)
            finals = [job.evaluate() if evaluate else {} for job in jobs]
            seconds = (time.perf_counter() - started) / sum(len(job.part) for job in jobs)
            for job, final in zip(jobs, finals, strict=True):
                if at_end is not None:
                    job.look_at_end(at_end, final)
                for row, i in enumerate(job.part):
                    runs[i] = recording.finish(
                        task,
                        spec,
                        cells[i],
                        steps,
                        job.losses_of(row),
                        engine="replicas",
                        record_every=record_every,
                        status=job.status[row],
                        final=final.get(row, {}),
                        looks=job.looks[row],
                        forwards=job.evaluated / task.count(batch) if row in final else 0.0,
                        seconds=seconds,
                        environment=environment,
                        **({} if compiler is None else {"compile": compiler.note}),
                    )
                    if on_run is not None:
                        on_run(i, runs[i])
                done += steps * len(job.part)
    return [runs[i] for i in range(len(cells))]


def _train(
    wave: Sequence[Chunk],
    pool: ThreadPoolExecutor | None,
    progress: Callable[[int], None],
    should_stop: ShouldStop | None,
    at_start: Look | None,
) -> None:
    """Bring chunks to their end: one after the other, or all at once, each on a thread of the pool."""
    for group in [[chunk] for chunk in wave] if pool is None else [list(wave)]:
        with ExitStack() as stack:
            stack.enter_context(isolated_rng(group[0].streams[0]))
            for chunk in group:
                stack.enter_context(mode_of(chunk.program.model, training=True))
            _train_together(group, wave, pool, progress, should_stop, at_start)


def _train_together(
    group: Sequence[Chunk],
    wave: Sequence[Chunk],
    pool: ThreadPoolExecutor | None,
    progress: Callable[[int], None],
    should_stop: ShouldStop | None,
    at_start: Look | None,
) -> None:
    feed, steps = Feed.of(group[0].task, {seed for c in group for seed in c.streams}), group[0].steps

    def drawn(start: int, end: int) -> Iterator[Draw]:
        return feed.block(end - start, [seed for chunk in group if chunk.active for seed in chunk.seeds])

    ahead: list[Draw] = []
    for start, end in _blocks(steps):
        if should_stop is not None and should_stop():
            for chunk in group:
                chunk.end(start, "interrupted")
            return
        running = [chunk for chunk in group if chunk.active]
        if start == 0 and at_start is not None:
            for chunk in running:
                chunk.start(at_start)
        if pool is None:
            draws = drawn(start, end)
            first = next(draws)
            running[0].prepare(start, [first])
            running[0].advance(start, chain([first], draws))
        else:
            draws = ahead or list(drawn(start, end))
            for chunk in running:
                chunk.prepare(start, draws)
            futures = [pool.submit(chunk.advance, start, draws) for chunk in running]
            ahead = list(drawn(end, _end(end, steps)))  # while the lanes are busy
            for future in futures:
                future.result()
        for chunk in running:
            chunk.look(end)
        progress(sum(chunk.done for chunk in wave))
        if not any(chunk.active for chunk in group):
            return
    for chunk in group:
        chunk.end(steps, "finished")


def _blocks(steps: int) -> Iterator[tuple[int, int]]:
    """Between looks: the first update alone, since it shows what a rule remembers, then to the next full ten."""
    start = 0
    while start < steps:
        yield start, (start := _end(start, steps))


def _end(start: int, steps: int) -> int:
    return min(steps, start // LOOK_EVERY * LOOK_EVERY + LOOK_EVERY if start else 1)
