"""The engine that measures what is fastest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lrscope.errors import TaskError
from lrscope.sweeps.cells import SweepCell, units
from lrscope.sweeps.engines import Job, run_here
from lrscope.sweeps.processes import Processes, cores, pickled
from lrscope.sweeps.work import most_at_once

SAVED = 20.0
"""Seconds that worker processes must save: starting them, and measuring in each, takes half of that."""


@dataclass(frozen=True)
class Auto:
    """Serial or replicas, whichever is faster by measurement; worker processes for what will take long.

    The first cells run in this process. If the rest would take long enough at their pace, and there is more than
    one core and a task that can be sent, workers share it, and each of them measures again.
    """

    name: ClassVar[str] = "auto"

    def run(self, job: Job, cells: Sequence[SweepCell]) -> None:
        pieces = units(cells, most_at_once)
        pilot = min(len(pieces[0]), max(2, min(32, len(cells) // 8)))
        if len(cells) <= 2 or not _could_be_shared(job):
            run_here(job, pieces, "auto", None)
            return
        started = time.perf_counter()
        run_here(job, [pieces[0][:pilot]], "auto", None)
        rest = [pieces[0][pilot:], *pieces[1:]] if pilot < len(pieces[0]) else pieces[1:]
        left = (time.perf_counter() - started) / pilot * (len(cells) - pilot)
        if left * (1 - 1 / cores()) > SAVED:
            Processes(within="auto").run(job, [cell for piece in rest for cell in piece])
        else:
            run_here(job, rest, "auto", None)


def _could_be_shared(job: Job) -> bool:
    """Whether worker processes could help: more than one core or device, and a task that can be sent."""
    device = job.source.device or "cpu"
    if cores() == 1 or device != "cpu":
        return False
    try:
        pickled(job.source)
    except TaskError:
        return False
    return True
