"""How far a sweep is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrscope.sweeps.cells import SweepCell

EVERY = 0.1
"""Seconds between two calls of ``on_progress`` at least."""


@dataclass(frozen=True)
class SweepProgress:
    """A sweep under way.

    Attributes:
        total: Cells that were asked for so far; an adaptive sweep asks for more as it goes.
        done: Those with a result, of which ``diverged`` and ``failed``, and ``found`` that had one before.
        running: Those handed out and without a result.
        share: Steps done, of all, in [0, 1].
        rate: Steps of all runs per second of this session.
        seconds_left: At that rate; ``None`` before anything is known.
        best: Row of the finished cell with the lowest loss: of the evaluation where there is one, else the final.
    """

    total: int
    done: int
    found: int
    diverged: int
    failed: int
    running: int
    share: float
    rate: float
    seconds_left: float | None
    best: Mapping[str, Any] | None


OnProgress = Callable[[SweepProgress], Any]


class Tally:
    """Counts, and calls ``on_progress`` now and then; what that raises stops the sweep."""

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self._on_progress = on_progress
        self._rows: dict[str, int] = {"finished": 0, "diverged": 0, "failed": 0}
        self._total = self._found = self._running = 0
        self._steps_total = self._steps_found = self._steps = 0
        self._best: Mapping[str, Any] | None = None
        self._started: float | None = None  # when the first cell did: workers and clusters take a while to appear
        self._told = 0.0

    def ask(self, cells: Sequence[SweepCell], rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Cells that are wanted, some of which may be known."""
        self._total += len(cells)
        self._steps_total += sum(cell.steps for cell in cells)
        for cell in cells:
            if cell.hash in rows:
                self._found += 1
                self._steps_found += cell.steps
                self._count(rows[cell.hash])

    def started(self, count: int) -> None:
        """So many cells run from now on; fewer than 0 for those of a worker that died."""
        self._running += count
        self._started = self._started or time.monotonic()
        self.tell()

    def done(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self._running -= 1
            self._count(row)
        self.tell()

    def steps(self, count: int) -> None:
        self._steps += count
        self.tell()

    def tell(self, *, now: bool = False) -> None:
        """Call ``on_progress``, unless it was called a moment ago."""
        if self._on_progress is None or (not now and time.monotonic() - self._told < EVERY):
            return
        self._told = time.monotonic()
        self._on_progress(self.progress)

    @property
    def progress(self) -> SweepProgress:
        rate = self._steps / max(time.monotonic() - self._started, 1e-9) if self._started else 0.0
        done = min(self._steps_found + self._steps, self._steps_total)
        return SweepProgress(
            total=self._total,
            done=sum(self._rows.values()),
            found=self._found,
            diverged=self._rows["diverged"],
            failed=self._rows["failed"],
            running=self._running,
            share=done / max(self._steps_total, 1),
            rate=rate,
            seconds_left=(self._steps_total - done) / rate if rate > 0 else None,
            best=self._best,
        )

    def _count(self, row: Mapping[str, Any]) -> None:
        self._rows[row["status"]] += 1
        if score(row) is not None and (self._best is None or score(row) < score(self._best)):
            self._best = row


def score(row: Mapping[str, Any]) -> Any:
    """The loss that ranks cells; ``None`` for one that did not finish."""
    if row["status"] != "finished":
        return None
    return row["eval_loss"] if row.get("eval_loss") is not None else row["final_loss"]
