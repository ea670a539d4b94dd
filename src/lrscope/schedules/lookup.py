"""A schedule read step by step at the price of a list index."""

from __future__ import annotations

import numpy as np

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule

_BLOCK = 1024


class Lookup:
    """``Lookup(schedule)(t)`` is ``schedule(t)``, computed a block of steps at a time.

    A training loop asks for one step after another. The array formula costs tens of microseconds a call, whether
    for one step or for a thousand; so a thousand are asked for at once, and the values are the same bits.
    """

    __slots__ = ("_begin", "_block", "schedule")

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._begin = 0
        self._block: list[float] = []

    def __call__(self, step: int) -> float:
        i = step - self._begin
        if 0 <= i < len(self._block):
            return self._block[i]
        return self._read(step)

    def _read(self, step: int) -> float:
        value = self.schedule(step)  # also the check of the step
        try:
            # Ahead only: a run goes forward. The first block is short, since many schedulers are only built.
            count = _BLOCK if self._block else 16
            self._block = self.schedule._at(np.arange(step, step + count, dtype=np.float64)).tolist()
            self._begin = step
        except ScheduleError:  # the block reaches past an end that may not be passed
            self._block = []
        return value
