"""One program of replicas from its first update to its evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Batch
from lrscope.optimizers.functional import FunctionalOptimizer
from lrscope.optimizers.spec import OptimizerSpec
from lrscope.records import Status
from lrscope.tasks import Task
from lrscope.training import divergence, recording
from lrscope.training.captured import CHECKED, Captured, Lane
from lrscope.training.cell import Cell
from lrscope.training.compiled import Compiled, Compiler
from lrscope.training.evaluate import weighted_means
from lrscope.training.feed import Draw, joined
from lrscope.training.lanes import keeps
from lrscope.training.precision import tolerance
from lrscope.training.program import CannotBatch, Program, Traits
from lrscope.training.recording import FloatArray, Look
from lrscope.training.updates import Updates

LOOK_EVERY = 10
"""Steps between looks at the losses: each waits for the device, and a diverged replica runs on until the next."""

FEW_LEFT = 200
"""With fewer steps to go, places of diverged replicas stay idle: tracing the smaller program would take longer."""


class Chunk:
    """Rows are cells; the program has a place for each that is still active, and idle ones for some that are not."""

    def __init__(
        self,
        task: Task,
        spec: OptimizerSpec,
        cells: Sequence[Cell],
        part: Sequence[int],
        steps: int,
        traits: Traits,
        lane: Lane | Compiler | None,
    ) -> None:
        self.task, self.part, self.steps, self.traits, self.lane = task, part, steps, traits, lane
        self.cells = cells = [cells[i] for i in part]
        self.looks = [recording.Looks() for _ in cells]
        self.evaluated = 0  # examples that went through each replica for its evaluation
        self.program = Program(task, [c.seed for c in cells], traits)
        self.rule = FunctionalOptimizer([c.rule(spec) for c in cells])
        self.state = self.rule.init(self.program.theta)
        self.streams = list(dict.fromkeys(c.seed for c in cells))
        self.places = list(range(len(cells)))  # the row of each place
        self._enter()
        theta = self.program.theta
        # Learning rates of low-precision models stay in float32: rounded to 8 bits they would be other schedules.
        wide = torch.promote_types(theta.dtype, torch.float32)
        rates = np.stack([c.schedule.values(steps) for c in cells], axis=1)
        self.rates = torch.from_numpy(rates).to(theta.device, wide)[:, :, None]  # (steps, places, 1)
        self.losses = torch.full((steps, len(cells)), torch.nan, device=theta.device, dtype=traits.loss.dtype)
        self.active = list(range(len(cells)))
        self.columns: slice | Tensor = slice(None)
        self.status: list[Status] = ["finished"] * len(cells)
        self.step = 0
        self.seen = [0] * len(cells)  # losses of each row that count
        self.limits = np.full(len(cells), np.inf)

    @property
    def seeds(self) -> list[int]:
        """Whose batches the places need."""
        return [self.cells[row].seed for row in self.places]

    @property
    def done(self) -> int:
        """Updates that need not be made any more, for progress."""
        return sum(self.steps if status == "diverged" else self.step for status in self.status)

    def start(self, at_start: Look) -> None:
        for row in self.active:
            self.looks[row].start = self._look_at(at_start, row)

    def prepare(self, step: int, draws: Sequence[Draw]) -> None:
        """Whatever touches the model or a global state before the updates from ``step`` on; not for other threads.

        Raises:
            Drifted: What is played is no longer what the model computes.
        """
        if self.updates is None:
            return
        if step in CHECKED:
            self.updates.captured.prepare(step, *self._joined(draws[0]))
        if step > 0:
            for draw in draws:
                self.updates.prepare(draw)

    def advance(self, step: int, draws: Iterable[Draw]) -> None:
        """Updates from ``step`` on, one for each of ``draws``, of which there are at most :data:`LOOK_EVERY`."""
        numbers = self.rule.numbers(self.rates[step : step + LOOK_EVERY], self.state.step)
        if self.updates is None or step == 0:
            for now, draw in enumerate(draws):
                losses, grads = self.gradients.gradients(*self._joined(draw))
                if step + now == 0:
                    self.first = losses[0].clone(), grads[0].clone()
                self.losses[step + now, self.columns] = losses
                self.rule.apply(self.program.theta, grads, [n[now] for n in numbers], self.state)
                self.state.step += 1
            return
        first = 0
        for some in [list(draws)] if keeps(self.task) else ([draw] for draw in draws):
            last = first + len(some)
            losses = self.losses.new_empty(len(some), len(self.places))
            self.updates.play(some, [n[first:last] for n in numbers], losses)
            self.losses[step + first : step + last, self.columns] = losses
            self.state.step += len(some)
            first = last

    def end(self, step: int, status: Status) -> None:
        for row in self.active:
            self.seen[row], self.status[row] = step, status

    def look(self, end: int) -> None:
        """Find replicas that diverged in the last steps before ``end``; the others do without them.

        Raises:
            CannotBatch: The program computes something else than the model on its own.
        """
        start, self.step = (end - 1) // LOOK_EVERY * LOOK_EVERY, end
        block = self.losses[start:end].double().cpu().numpy()
        if end == 1:
            self._compare()
            self.limits = np.array([divergence.limit(x) for x in block[0]])
        bad = ~(np.isfinite(block) & (block <= self.limits))
        gone = [row for row in self.active if bad[:, row].any()]
        for row in gone:
            self.seen[row] = start + int(bad[:, row].argmax()) + 1
            self.status[row] = "diverged"
        self.active = [row for row in self.active if row not in gone]
        if not gone or not self.active:
            return
        few = self.steps - end < FEW_LEFT or 2 * len(self.active) > len(self.places)
        if self.lane is not None and (few or self.lane.idles):
            self._idle(gone)
        else:
            self._shrink()

    def _idle(self, gone: Sequence[int]) -> None:
        """Put a copy of a healthy replica, at rest, where diverged ones were; its numbers are nobody's."""
        healthy = self.places.index(self.active[0])
        tensors = [self.program.theta, *self.program.stacked.values(), *self.state.tensors()]
        for row in gone:
            place = self.places.index(row)
            self.rates[:, place] = 0.0
            for tensor in tensors:
                tensor[place] = tensor[healthy]

    def _shrink(self) -> None:
        """Go on with the places of active rows only."""
        kept = torch.tensor([self.places.index(row) for row in self.active], device=self.rates.device)
        self.program.keep(kept)
        self.rule, self.state = self.rule.keep(kept), self.state.keep(kept)
        self.rates = self.rates[:, kept]
        self.places = list(self.active)
        self.columns = torch.tensor(self.active, device=self.rates.device)
        self._enter()

    def _enter(self) -> None:
        """Go the way of the lane, if there is one, with what the places hold now."""
        lane, shared = self.lane, len(self.streams) == 1
        self.gradients: Captured | Compiled | Program = lane.enter(self.program) if lane else self.program
        self.updates = (
            Updates(self.gradients, self.rule, self.state, self.seeds, shared=shared)
            if isinstance(self.gradients, Captured)
            else None
        )

    def _joined(self, draw: Draw) -> tuple[Batch, Any]:
        """One batch for all places, shared if all cells have one seed, and which of its leaves are stacked."""
        return joined(draw, self.seeds, shared=len(self.streams) == 1)

    def _compare(self) -> None:
        """Refuse a program that runs but computes something else than the model on its own."""
        if self.traits.draws or self.cells[0].seed != self.traits.seed:
            return
        # Wide enough for the reduced precision of a GPU's matrix units; a wrong program is off by far more. The
        # second term is for starts at a stationary point, whose gradient is rounding alone.
        first_loss, grad = self.first
        tol = tolerance(grad.dtype, torch.finfo(grad.dtype).eps ** (1 / 3))
        loss, norm = abs(float(self.traits.loss)), float(self.traits.grad.norm())
        off = float((grad - self.traits.grad).norm())
        off_loss = abs(float(first_loss - self.traits.loss))
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
        return {row: {k: column[self.places.index(row)] for k, column in columns.items()} for row in rows}

    def look_at_end(self, fn: Look, final: Mapping[int, Mapping[str, float]]) -> None:
        """What ``fn`` sees in the models of the rows that finished."""
        for row in self.active:
            first = float(self.losses[0, row])
            if self.status[row] == "finished" and recording.has_survived(final.get(row, {}), first):
                self.looks[row].end = self._look_at(fn, row)

    def _look_at(self, fn: Look, row: int) -> dict[str, float]:
        seed = self.cells[row].seed
        model = self.program.model_of(self.places.index(row), seed)
        return recording.look(fn, self.part[row], model, self.task, seed)

    def losses_of(self, row: int) -> FloatArray:
        return self.losses[: self.seen[row], row].double().cpu().numpy()
