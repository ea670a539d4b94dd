"""One cell of a sweep: everything that defines one run, its hash, and what it may share a program with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lrscope.optimizers import OptimizerSpec
from lrscope.records import strict_json
from lrscope.schedules import Schedule
from lrscope.training import Cell


@dataclass(frozen=True)
class SweepCell:
    """One run of a sweep, resolved.

    Attributes:
        point: The axes' values as the table shows them, by name.
        settings: Keyword arguments of the task's function.
        optimizer: The update rule with all its numbers.
        shape: Schedule as a factor of ``lr``.
        lr: Peak learning rate, or 1 where the shape is absolute.
        steps: Updates.
        seed: Decides initialisation, data order and the model's own draws.
        measure: What is measured besides the loss.
    """

    point: Mapping[str, Any]
    settings: Mapping[str, Any]
    optimizer: OptimizerSpec
    shape: Schedule
    lr: float
    steps: int
    seed: int
    measure: tuple[str, ...] = ()
    _spec: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def config(self) -> dict[str, Any]:
        """All that defines the run, JSON-able."""
        return {
            "point": dict(self.point),
            "settings": {name: _plain(value) for name, value in self.settings.items()},
            "optimizer": self.optimizer.to_spec(),
            "shape": self._spec or self.shape.to_spec(),
            "lr": self.lr,
            "steps": self.steps,
            "seed": self.seed,
            "measure": list(self.measure),
        }

    @cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of the config; names the cell's file."""
        return hashlib.sha256(strict_json(self.config, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def schedule(self) -> Schedule:
        return self.shape if self.lr == 1 else self.shape * self.lr

    @cached_property
    def group(self) -> str:
        """Cells of one group may train as one batched program: equal task, steps, update rule and its switches."""
        rule = {k: v for k, v in self.optimizer.to_spec().items() if isinstance(v, (str, bool))}
        settings = {name: _plain(value) for name, value in self.settings.items()}
        return strict_json([settings, rule, self.steps], sort_keys=True, default=str)

    def run_of(self, common: OptimizerSpec) -> Cell:
        """As :func:`lrscope.training.run_cells` takes it, under the optimizer that its group has in ``common``."""
        shared, own = common.to_spec(), self.optimizer.to_spec()
        different = {k: v for k, v in own.items() if v != shared[k]}
        return Cell(self.schedule, seed=self.seed, name=self.hash, optimizer=different)


def groups(cells: Iterable[SweepCell]) -> list[list[SweepCell]]:
    """Cells that may train together, in the order of each group's first."""
    found: dict[str, list[SweepCell]] = {}
    for cell in cells:
        found.setdefault(cell.group, []).append(cell)
    return list(found.values())


def units(cells: Iterable[SweepCell], most: Callable[[int], int]) -> list[list[SweepCell]]:
    """The groups in pieces of about equal size, of at most ``most(steps)`` cells."""
    pieces = []
    for group in groups(cells):
        count = -(-len(group) // most(group[0].steps))
        size = -(-len(group) // count)
        pieces += [group[i : i + size] for i in range(0, len(group), size)]
    return pieces


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
