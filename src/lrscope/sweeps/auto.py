"""The engine that measures which one is fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lrscope.sweeps.cells import SweepCell, units
from lrscope.sweeps.engines import Job, run_here
from lrscope.sweeps.work import most_at_once


@dataclass(frozen=True)
class Auto:
    """Serial or replicas, whichever is faster by measurement."""

    name: ClassVar[str] = "auto"

    def run(self, job: Job, cells: Sequence[SweepCell]) -> None:
        run_here(job, units(cells, most_at_once), "auto", None)
