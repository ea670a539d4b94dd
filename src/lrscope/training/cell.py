"""One cell: a training run that differs from its neighbours in schedule or seed only."""

from __future__ import annotations

from dataclasses import dataclass

from lrscope.schedules import Schedule


@dataclass(frozen=True)
class Cell:
    """What distinguishes one run of a batch of runs.

    Attributes:
        schedule: Absolute learning rate as a function of the step.
        seed: Decides initialisation, data order and the model's own draws.
        name: Shown in tables; empty for none.
    """

    schedule: Schedule
    seed: int = 0
    name: str = ""
