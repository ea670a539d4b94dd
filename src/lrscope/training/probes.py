"""What a probe sees. Probes are handed to the loop: the loop itself measures nothing but the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from lrscope.objective import Batch


@dataclass(frozen=True)
class TrainState:
    """The training just before update ``step``: gradients are ready, parameters not yet moved.

    Attributes:
        step: Finished updates.
        steps: Updates of the whole run.
        loss: Batch loss at the current parameters.
        lr: Learning rate of the first parameter group for the coming update.
        model, optimizer, batch: The live objects; a probe leaves them as it found them.
        event: ``event(kind, **detail)`` records that something happened at this step.
    """

    step: int
    steps: int
    loss: float
    lr: float
    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    event: Callable[..., None]


class Probe(Protocol):
    """Measures something during training. A probe with ``state_dict``/``load_state_dict`` survives a resume.

    One with ``finish(model, step)`` is called once more after the last update of a run that finished.

    Attributes:
        name: Names the probe in a checkpoint.
        every: Period in steps; ``None`` means every step.
    """

    name: str
    every: int | None

    def __call__(self, state: TrainState) -> Mapping[str, float | None]:
        """Columns to add to this step's row; ``None`` leaves a column empty."""
        ...


def due(probe: Probe, step: int) -> bool:
    return probe.every is None or step % probe.every == 0


def states_of(probes: Any) -> dict[str, Any]:
    """States of the probes that have one, by name, for a checkpoint."""
    return {p.name: p.state_dict() for p in probes if hasattr(p, "state_dict")}


def restore_states(probes: Any, states: Mapping[str, Any]) -> None:
    for probe in probes:
        if probe.name in states and hasattr(probe, "load_state_dict"):
            probe.load_state_dict(states[probe.name])


def finish(probes: Any, model: nn.Module, step: int) -> None:
    """Tell the probes that want to know it that the last update is made."""
    for probe in probes:
        if hasattr(probe, "finish"):
            probe.finish(model, step)
