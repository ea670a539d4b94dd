"""Many runs that differ in schedule or seed, trained as one batched tensor program."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrscope.isolation import isolated_rng, mode_of
from lrscope.optimizers.functional import FunctionalOptimizer
from lrscope.optimizers.spec import OptimizerSpec
from lrscope.records import Run, Status
from lrscope.records import environment as versions
from lrscope.tasks import BatchStream, Task
from lrscope.training import divergence, recording
from lrscope.training.cell import Cell
from lrscope.training.evaluate import weighted_means
from lrscope.training.grouping import Feed, chunks, default_chunk, seeds_mix
from lrscope.training.program import CannotBatch, Program, Traits, examine
from lrscope.training.recording import FloatArray, Look, OnProgress, OnRun, ShouldStop

LOOK_EVERY = 10
"""Steps between looks at the losses: each waits for the device, and a diverged replica runs on until the next."""


def replicas(
    task: Task,
    optimizer: OptimizerSpec | str | Mapping[str, Any],
    cells: Sequence[Cell],
    steps: int,
    *,
    record_every: int = 1,
    evaluate: bool = True,
    chunk: int | None = None,
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
    first = cells[0].seed
    batch = task.to_device(next(BatchStream(task.train, first)))
    traits = examine(task, first, batch)
    size = chunk or default_chunk(traits.grad)
    environment = versions()
    runs: dict[int, Run] = {}
    done = 0
    for part in chunks(cells, size, by_seed=not seeds_mix(task, cells, traits)):
        job = _Chunk(task, spec, cells, part, steps, traits)

        def progress(updates: int, before: int = done) -> None:
            if on_progress is not None:
                on_progress(before + updates, steps * len(cells))

        started = time.perf_counter()
        job.train(progress, should_stop, at_start)
        final = job.evaluate() if evaluate else {}
        if at_end is not None:
            job.look_at_end(at_end, final)
        seconds = (time.perf_counter() - started) / len(part)
        for row, i in enumerate(part):
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
            )
            if on_run is not None:
                on_run(i, runs[i])
        done += steps * len(part)
    return [runs[i] for i in range(len(cells))]


class _Chunk:
    """One program from its first update to its evaluation. Rows are cells; the program holds those still active."""

    def __init__(
        self,
        task: Task,
        spec: OptimizerSpec,
        cells: Sequence[Cell],
        part: Sequence[int],
        steps: int,
        traits: Traits,
    ) -> None:
        self.task, self.part, self.steps, self.traits = task, part, steps, traits
        self.cells = cells = [cells[i] for i in part]
        self.looks = [recording.Looks() for _ in cells]
        self.evaluated = 0  # examples that went through each replica for its evaluation
        self.program = Program(task, [c.seed for c in cells], traits)
        self.rule = FunctionalOptimizer([c.rule(spec) for c in cells])
        self.state = self.rule.init(self.program.theta)
        theta = self.program.theta
        # Learning rates of low-precision models stay in float32: rounded to 8 bits they would be other schedules.
        wide = torch.promote_types(theta.dtype, torch.float32)
        rates = np.stack([c.schedule.values(steps) for c in cells], axis=1)
        self.rates = torch.from_numpy(rates).to(theta.device, wide)[:, :, None]  # (steps, n, 1)
        self.losses = torch.full((steps, len(cells)), torch.nan, device=theta.device, dtype=traits.loss.dtype)
        self.active = list(range(len(cells)))
        self.status: list[Status] = ["finished"] * len(cells)
        self.seen = [0] * len(cells)  # losses of each row that count
        self.limits = np.full(len(cells), np.inf)

    def train(self, progress: Any, should_stop: ShouldStop | None, at_start: Look | None) -> None:
        seeds = [c.seed for c in self.cells]
        feed = Feed.of(self.task, seeds)
        program, rates, columns = self.program, self.rates, slice(None)
        with isolated_rng(seeds[0]), mode_of(program.model, training=True):
            for step in range(self.steps):
                if step % LOOK_EVERY == 0 and should_stop is not None and should_stop():
                    self._end(step, "interrupted")
                    return
                if step == 0 and at_start is not None:
                    for row in self.active:
                        self.looks[row].start = self._look_at(at_start, row)
                losses, grads = program.gradients(*feed.next([seeds[row] for row in self.active]))
                if step == 0:
                    self._compare(losses, grads)
                self.losses[step, columns] = losses
                self.rule.update(program.theta, grads, rates[step], self.state)
                if (step + 1) % LOOK_EVERY == 0 or step + 1 == self.steps:
                    if self._look(step + 1):
                        columns = torch.tensor(self.active, dtype=torch.long, device=self.rates.device)
                        rates = self.rates[:, columns]
                    progress(sum(self.steps if s == "diverged" else step + 1 for s in self.status))
                    if not self.active:
                        return
        self._end(self.steps, "finished")

    def _end(self, step: int, status: Status) -> None:
        for row in self.active:
            self.seen[row], self.status[row] = step, status

    def _look(self, end: int) -> bool:
        """Find replicas that diverged in the last steps before ``end`` and drop them; whether there were any."""
        start = (end - 1) // LOOK_EVERY * LOOK_EVERY
        block = self.losses[start:end].double().cpu().numpy()
        if start == 0:
            self.limits = np.array([divergence.limit(x) for x in block[0]])
        bad = ~(np.isfinite(block) & (block <= self.limits))
        gone = [row for row in self.active if bad[:, row].any()]
        for row in gone:
            self.seen[row] = start + int(bad[:, row].argmax()) + 1
            self.status[row] = "diverged"
        if gone:
            kept = torch.tensor([i for i, row in enumerate(self.active) if row not in gone], dtype=torch.long)
            kept = kept.to(self.rates.device)
            self.program.keep(kept)
            self.rule, self.state = self.rule.keep(kept), self.state.keep(kept)
            self.active = [row for row in self.active if row not in gone]
        return bool(gone)

    def _compare(self, losses: Tensor, grads: Tensor) -> None:
        """Refuse a program that runs but computes something else than the model on its own."""
        if self.traits.draws or self.cells[0].seed != self.traits.seed:
            return
        # Wide enough for the reduced precision of a GPU's matrix units; a wrong program is off by far more. The
        # second term is for starts at a stationary point, whose gradient is rounding alone.
        tol = torch.finfo(grads.dtype).eps ** (1 / 3)
        loss, norm = abs(float(self.traits.loss)), float(self.traits.grad.norm())
        off = float((grads[0] - self.traits.grad).norm())
        off_loss = abs(float(losses[0] - self.traits.loss))
        if off > tol * norm + tol**2 * max(1.0, loss) or off_loss > tol * max(1.0, loss):
            raise CannotBatch(
                f"as a batched program the model's first gradient differs by {off:.1e} (norm {norm:.1e}) and its "
                f"loss by {off_loss:.1e}; does the model keep state outside its parameters and buffers?"
            )

    @torch.no_grad()
    def evaluate(self) -> dict[int, dict[str, float]]:
        """``eval_loss`` and metrics of the rows that finished."""
        rows = [row for row in self.active if self.status[row] == "finished"]
        if not rows:
            return {}
        with isolated_rng(seed=0), mode_of(self.program.model, training=False):
            means, self.evaluated = weighted_means(self.task, self.program.measure)
        columns = {name: values.cpu().tolist() for name, values in means.items()}
        return {row: {name: column[i] for name, column in columns.items()} for i, row in enumerate(rows)}

    def look_at_end(self, fn: Look, final: Mapping[int, Mapping[str, float]]) -> None:
        """What ``fn`` sees in the models of the rows that finished."""
        for row in self.active:
            first = float(self.losses[0, row])
            if self.status[row] == "finished" and recording.has_survived(final.get(row, {}), first):
                self.looks[row].end = self._look_at(fn, row)

    def _look_at(self, fn: Look, row: int) -> dict[str, float]:
        seed = self.cells[row].seed
        model = self.program.model_of(self.active.index(row), seed)
        return recording.look(fn, self.part[row], model, self.task, seed)

    def losses_of(self, row: int) -> FloatArray:
        return self.losses[: self.seen[row], row].double().cpu().numpy()
