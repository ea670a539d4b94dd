"""Replicas whose gradient is traced once and then played, for as long as it agrees with the plain program."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from lrscope.isolation import RandomState, isolated_rng
from lrscope.objective import Batch
from lrscope.training.feed import kind_of
from lrscope.training.kernels import Unplayable
from lrscope.training.precision import tolerance
from lrscope.training.program import CannotBatch, Program, reasons
from lrscope.training.tape import Tape
from lrscope.training.trace import trace

MOST_KINDS = 4
"""Kinds of batch (shapes and structure) that are traced; further ones run plainly."""


CHECKED = (0, 10, 100, 1_000, 10_000, 100_000)
"""Steps at which what is played is compared with the plain program."""


class Drifted(Exception):  # noqa: N818 - it reads as the sentence it is
    """What is played is no longer what the model computes: plain Python in it has changed since it was traced."""


class Graphs:
    """Traced gradients by what they depend on, shared by programs of one task."""

    def __init__(self) -> None:
        self.closed = False
        self._known: dict[Hashable, fx.GraphModule | None] = {}

    def of(self, program: Program, batch: Batch, dims: Any) -> fx.GraphModule | None:
        """The graph for batches like this one; ``None`` if it cannot be traced."""
        key = (len(program.theta), program.kind, kind_of(batch, dims))
        if key not in self._known:
            self._known[key] = None
            if sum(k[:2] == key[:2] for k in self._known) <= MOST_KINDS:  # pyright: ignore
                try:
                    with reasons():
                        self._known[key] = trace(program, batch, dims)
                except CannotBatch:
                    pass
        return self._known[key]


class Lane:
    """Where one chunk is trained after the other: those of one shape on the same tape, and so in the same memory."""

    idles = False  # a smaller program is traced where there are steps enough left

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self._last: Captured | None = None

    def enter(self, program: Program) -> Captured:
        """The gradients of ``program``, whose tensors may move to where those of an earlier one were."""
        last = self._last
        if last is None or (len(last.program.theta), last.program.kind) != (len(program.theta), program.kind):
            self._last = Captured(program, self.graphs)
        else:
            last.serve(program)
        assert self._last is not None
        return self._last


class Captured:
    """The gradients of ``program``, from a tape.

    The program's tensors are the tape's memory: they are updated in place.
    """

    def __init__(self, program: Program, graphs: Graphs) -> None:
        self.program, self.graphs = program, graphs
        self._tapes: dict[Hashable, Tape | None] = {}
        self._grads = torch.empty_like(program.theta)
        self._checks: tuple[int, ...] = CHECKED

    def serve(self, program: Program) -> None:
        """Go on with another program of the same kind."""
        old, self.program = self.program, program
        program.theta = old.theta.copy_(program.theta)
        program.stacked = {k: old.stacked[k].copy_(t) for k, t in program.stacked.items()}
        program.shared = {k: old.shared[k].copy_(t) for k, t in program.shared.items()}
        self._checks = CHECKED[:1]  # what changes with the number of calls was seen in the first program

    def prepare(self, step: int, batch: Batch, dims: Any) -> None:
        """Make the tape for batches like this one, and now and then see whether it still tells the truth.

        Raises:
            Drifted: It does not.
        """
        tape = self.tape(batch, dims)
        if step in self._checks and tape is not None and not self._agrees(tape, batch, dims):
            raise Drifted

    def gradients(self, batch: Batch, dims: Any) -> tuple[Tensor, Tensor]:
        """As :meth:`Program.gradients`; the results are overwritten by the next call."""
        tape = self.tape(batch, dims)
        if tape is None:
            return self._plainly(batch, dims)
        self._fill(tape, batch)
        return self._play(tape)

    def tape(self, batch: Batch, dims: Any) -> Tape | None:
        """The tape for batches like this one, made and checked at the first of its kind."""
        kind = kind_of(batch, dims)
        if kind not in self._tapes:
            self._tapes[kind] = self._record(batch, dims)
        return self._tapes[kind]

    def _record(self, batch: Batch, dims: Any) -> Tape | None:
        graph = self.graphs.of(self.program, batch, dims)
        if graph is None:
            return None
        program = self.program
        tensors = [t.clone() for t in pytree.tree_leaves(batch) if isinstance(t, Tensor)]
        inputs = [program.theta, *program.stacked.values(), *program.shared.values(), *tensors]
        try:
            with isolated_rng():  # planning runs everything once, dropout too
                tape = Tape(graph, inputs, {0: self._grads})
        except Unplayable:
            return None
        return tape if self._agrees(tape, batch, dims) else None

    def _agrees(self, tape: Tape, batch: Batch, dims: Any) -> bool:
        """Whether both ways give the same, to rounding; leaves the program's tensors and all generators alone."""
        program, random = self.program, RandomState.take()
        held, program.stacked = program.stacked, {k: t.clone() for k, t in program.stacked.items()}
        try:
            losses, grads = program.gradients(batch, dims)
            plain = [losses, grads, *program.stacked.values()]
            random.restore()
            program.stacked = held
            kept = {k: t.clone() for k, t in held.items()}
            self._fill(tape, batch)
            played = [t.clone() for t in (*self._play(tape), *held.values())]
            for k, t in held.items():
                t.copy_(kept[k])
        finally:
            program.stacked = held
            random.restore()
        return all(agree(a, b) for a, b in zip(played, plain, strict=True))

    def _fill(self, tape: Tape, batch: Batch) -> None:
        tensors = [t for t in pytree.tree_leaves(batch) if isinstance(t, Tensor)]
        for memory, tensor in zip(tape.inputs[len(tape.inputs) - len(tensors) :], tensors, strict=True):
            memory.copy_(tensor)

    def _play(self, tape: Tape) -> tuple[Tensor, Tensor]:
        tape.play([[]])
        grads, losses, *after = tape.outputs
        for held, new in zip(self.program.stacked.values(), after, strict=True):
            if held is not new:
                held.copy_(new)
        return losses, grads

    def _plainly(self, batch: Batch, dims: Any) -> tuple[Tensor, Tensor]:
        held = self.program.stacked
        losses, grads = self.program.gradients(batch, dims)
        for name, new in self.program.stacked.items():
            held[name].copy_(new)
        self.program.stacked = held
        return losses, grads


def agree(a: Tensor, b: Tensor) -> bool:
    """Equal to rounding as a whole, of products in less precision too; what is no number must be none in both."""
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    allowed = tolerance(a.dtype, 1e-4)
    a, b = a.double(), b.double()
    if not torch.equal(a.isfinite(), b.isfinite()):
        return False
    a, b = a.nan_to_num(0.0, 0.0, 0.0), b.nan_to_num(0.0, 0.0, 0.0)
    return float((a - b).norm()) <= allowed * float(b.norm()) + 1e-30
