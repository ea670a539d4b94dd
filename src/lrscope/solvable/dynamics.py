"""The loop that all solvable models share: many learning rates at once, each run ended by its own status."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from lrscope.solvable.trajectory import Status, Trajectory

State = tuple[Tensor, ...]
"""Exact state of the dynamics; the first dimension of each tensor counts the runs."""
Rates = float | Sequence[float] | Tensor | Callable[[int], float]


class Dynamics(ABC):
    """A model whose training is an exact recursion in a few numbers."""

    @abstractmethod
    def _start(self) -> State:
        """State before the first update, with a first dimension of 1."""

    @abstractmethod
    def _step(self, state: State, lr: Tensor) -> State:
        """One update of K runs at their rates, ``(K,)``."""

    @abstractmethod
    def _observe(self, state: State) -> Mapping[str, Tensor]:
        """``"loss"`` and what else is recorded, each ``(K,)``."""

    @cached_property
    def _first(self) -> dict[str, float]:
        """What is observed at the start."""
        return {name: float(value) for name, value in self._observe(self._start()).items()}

    def _settled(self, seen: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Tensor:
        """Which of K runs have converged: the loss is 1e-20 of the initial one."""
        return seen["loss"] <= 1e-20 * first["loss"]

    def _escaped(self, seen: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Tensor:
        """Which of K runs have left what any run that settles could reach; losses that are not finite always have."""
        return seen["loss"] > 1e24 * first["loss"]

    def run(self, lr: Rates, steps: int = 1000) -> Trajectory:
        """Train by gradient descent, exactly.

        Args:
            lr: Learning rate; several give as many runs; a function of the step, such as a
                :class:`~lrscope.schedules.Schedule` times a rate, gives one run under that schedule.
            steps: Updates at most; the run is shorter if all have converged or diverged.

        Returns:
            :class:`~lrscope.solvable.Trajectory`. Cost: a few array operations per step, whatever the width.

        Raises:
            ValueError: A rate that is negative or not finite, or fewer than one step.
        """
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps: expected an integer of 1 or more, got {steps!r}")
        if callable(lr):
            rates = _rates([float(lr(t)) for t in range(steps + 1)])
            return follow(self, self._start(), rates[:, None], steps, single=True)
        rates = _rates(lr)
        if rates.ndim > 1 or rates.numel() == 0:
            raise ValueError(f"lr: expected a number or a list of them, got shape {tuple(rates.shape)}")
        lanes = tuple(part.expand(rates.numel(), *part.shape[1:]) for part in self._start())
        return follow(self, lanes, rates.reshape(1, -1), steps, single=rates.ndim == 0)


def follow(model: Dynamics, state: State, rates: Tensor, steps: int, *, single: bool = False) -> Trajectory:
    """Run K lanes from ``state`` at ``rates``, shape ``(1, K)`` or ``(steps + 1, K)``."""
    first = seen = model._observe(state)
    rows = [dict(seen)]
    alive = torch.ones_like(seen["loss"], dtype=torch.bool)
    settled = model._settled(seen, first)
    for t in range(steps):
        if bool((settled | ~alive).all()):
            break
        lr = rates[t] if len(rates) > 1 else rates[0]
        ahead = model._step(state, lr)
        finite = torch.stack([torch.isfinite(part.reshape(len(part), -1)).all(1) for part in ahead]).all(0)
        # A run that left float64 stays where it was, so that nothing after it has to cope with inf and nan.
        state = tuple(
            torch.where(_like(finite & alive, new), new, old) for new, old in zip(ahead, state, strict=True)
        )
        seen = model._observe(state)
        alive = alive & finite & torch.isfinite(seen["loss"]) & ~model._escaped(seen, first)
        settled = model._settled(seen, first)
        rows.append({name: torch.where(alive, value, torch.nan) for name, value in seen.items()})
    columns = {name: torch.stack([row[name] for row in rows]) for name in first}
    columns["lr"] = rates[: len(rows)] if len(rates) > 1 else rates.expand(len(rows), -1)
    status: tuple[Status, ...] = tuple(_status(a, s) for a, s in zip(alive.tolist(), settled.tolist(), strict=True))
    if single:
        return Trajectory(str(model), {name: values[:, 0] for name, values in columns.items()}, status[0])
    return Trajectory(str(model), columns, status)


def positive(**numbers: float) -> None:
    """Refuse what is not a positive finite number; the message names it."""
    for name, value in numbers.items():
        if not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise ValueError(f"{name}: expected a positive number, got {value!r}")


def count(**numbers: int) -> None:
    """Refuse what is not an integer of 1 or more."""
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected an integer of 1 or more, got {value!r}")


def _rates(lr: float | Sequence[float] | Tensor) -> Tensor:
    rates = torch.as_tensor(lr, dtype=torch.float64)
    if not bool((torch.isfinite(rates) & (rates >= 0)).all()):
        raise ValueError(f"lr: expected finite learning rates of 0 or more, got {lr!r}")
    return rates


def _like(mask: Tensor, other: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (other.ndim - 1))


def _status(alive: bool, settled: bool) -> Status:
    if not alive:
        return "diverged"
    return "converged" if settled else "running"
