"""Replicas whose plain gradient goes through ``torch.compile``, where this machine can and the result agrees."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from lrscope.errors import LrscopeWarning
from lrscope.isolation import RandomState, mode_of
from lrscope.objective import Batch
from lrscope.training.captured import MOST_KINDS, agree
from lrscope.training.feed import kind_of
from lrscope.training.program import Program, plain_attention, reasons

Gradients = Callable[..., tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]]


# Otherwise torch counts all gradients of a process as one function, and stops compiling at the ninth.
_ISOLATED: dict[str, Any] = (
    {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
)


class Compiler:
    """Compiled gradients by what they depend on, shared by programs of one task.

    Attributes:
        seconds: What compiling took, and comparing with the plain program.
        trouble: Why some programs run plainly; empty while none does.
    """

    idles = True  # a smaller program would be compiled anew, which takes longer than idle places do

    def __init__(self) -> None:
        self.seconds, self.trouble = 0.0, ""
        self._known: dict[Hashable, tuple[Program, Gradients] | None] = {}

    @property
    def note(self) -> str:
        """For a run's config."""
        made = any(self._known.values())
        done = f"compiled in {self.seconds:.1f} s" if made else ""
        failed = f"{'partly ' if made else ''}not compiled: {self.trouble}" if self.trouble else ""
        return "; ".join(filter(None, (done, failed))) or "nothing to compile"

    def enter(self, program: Program) -> Compiled:
        """The gradients of ``program``."""
        return Compiled(program, self)

    def of(self, program: Program, batch: Batch, dims: Any) -> tuple[Program, Gradients] | None:
        """What computes gradients for batches like this one, and whose model it calls; ``None``: only plainly."""
        key = (len(program.theta), program.kind, kind_of(batch, dims))
        if key not in self._known:
            self._known[key] = None
            if self.trouble:  # and it would be again
                pass
            elif sum(k[:2] == key[:2] for k in self._known) > MOST_KINDS:  # pyright: ignore
                self.refuse(f"more than {MOST_KINDS} shapes of batch")
            else:
                started = time.perf_counter()
                self._known[key] = self._compile(program, batch, dims)
                self.seconds += time.perf_counter() - started
        return self._known[key]

    def refuse(self, why: str) -> None:
        """Say, once, that something runs plainly."""
        if not self.trouble:
            warnings.warn(f"compile: not compiled, so the plain program runs: {why}", LrscopeWarning, stacklevel=2)
        self.trouble = self.trouble or why

    def _compile(self, program: Program, batch: Batch, dims: Any) -> tuple[Program, Gradients] | None:
        # What would be compiled in other processes would wait for them to start; and eager draws, since equal
        # replicas must draw what each would on its own.
        options = {"compile_threads": 1, "fallback_random": True}
        random, given = RandomState.take(), (program.theta, program.stacked, program.shared, batch)
        try:
            function = torch.compile(
                program.mapped(dims), fullgraph=True, dynamic=False, options=options, **_ISOLATED
            )
            with plain_attention():
                grads, (losses, after) = function(*given)
            random.restore()
            with reasons():
                plain_grads, (plain_losses, plain_after) = program.mapped(dims)(*given)
        except (
            Exception
        ) as error:  # no compiler, or a model it has no words for; what is wrong without it shows there
            inner = getattr(error, "inner_exception", error)
            self.refuse(f"{type(inner).__name__}: {(str(inner).strip().splitlines() or [''])[0]}")
            return None
        finally:
            random.restore()
        pairs = [(grads, plain_grads), (losses, plain_losses), *((after[k], t) for k, t in plain_after.items())]
        if not all(agree(a, b) for a, b in pairs):
            self.refuse("what was compiled computes something else")
            return None
        return program, function


class Compiled:
    """The gradients of ``program``, compiled."""

    def __init__(self, program: Program, compiler: Compiler) -> None:
        self.program, self.compiler = program, compiler

    def gradients(self, batch: Batch, dims: Any) -> tuple[Tensor, Tensor]:
        """As :meth:`Program.gradients`."""
        program, found = self.program, self.compiler.of(self.program, batch, dims)
        if found is None:
            return program.gradients(batch, dims)
        owner, function = found
        # Compiled for one model, which serves all programs of its kind: their tensors are arguments.
        with plain_attention(), mode_of(owner.model, training=True):
            grads, (losses, program.stacked) = function(program.theta, program.stacked, program.shared, batch)
        return losses, grads
